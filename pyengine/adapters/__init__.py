"""Adapters: each reads one framework's models and steps into the canonical record, and alone imports it, lazily."""
