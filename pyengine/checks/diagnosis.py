"""The names of what goes wrong in training loops: for each a sentence that says what was seen, and a remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """One finding about a training step. ``name`` is fixed and short, ``sentence`` has the numbers of the case;
    ``about`` is the loss that it concerns, if it is about one."""

    name: str
    sentence: str
    remedy: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence} {self.remedy}"


_TEXTS = {
    "averaged": (
        "The gradient at the shared layers is the mean of the losses' gradients: every weight is divided by {count}.",
        "Add the weighted losses instead of averaging them, or configure the weights that you mean.",
    ),
    "missing loss": (
        "The loss {loss} contributes nothing at the shared layers{also}.",
        "Look for detach(), .item(), no_grad() or stop_gradient on its way, and whether it is in the total.",
    ),
    "weights exchanged": (
        "The configured weights are there, but at other losses: {found}.",
        "Check the order in which losses and weights are listed; name them in a dict.",
    ),
    "gradients not zeroed": (
        "The gradient is that of this batch plus what lay in the buffers from before.",
        "Call optimizer.zero_grad() once for every step, before backward().",
    ),
    "previous batch": (
        "The gradient is that of the previous batch.",
        "Call backward() on this batch's loss before step(), after zero_grad().",
    ),
    "accumulation not divided": (
        "The gradients of {count} micro-batches were added, not averaged: {count} times that of the whole batch.",
        "Divide each micro-batch's loss by {count}, or the gradients once before the step.",
    ),
    "accumulation divided twice": (
        "The gradients of {count} micro-batches were divided by {count} twice.",
        "Divide the loss or let the framework do it, not both.",
    ),
    "partial window": (
        "The window holds {count} micro-batches, but they were divided by {accumulation}.",
        "Divide by the number of micro-batches that the window really has.",
    ),
    "mean of means": (
        "The micro-batches differ in size ({sizes}), yet each was averaged by itself and the averages were averaged.",
        "Divide the sum of all losses by the number of samples of the whole window.",
    ),
    "only one micro-batch": (
        "Of the window only micro-batch {which} counts.",
        "Do not zero or overwrite gradients inside a window; step only at its end.",
    ),
    "surgery without effect": (
        "The gradient is the plain sum, although the losses conflict (cosine {cosine:.3g}): nothing was projected.",
        "Give the surgery each loss's own gradient; after one backward() of the total, .grad holds only the sum.",
    ),
    "surgery over heads": (
        "The projection was computed with parameters of the heads among the shared ones.",
        "Flatten only the parameters that all losses reach.",
    ),
    "surgery averaged": (
        "The projected gradients were averaged over the {count} losses, not added.",
        "Use reduction='sum', or multiply by the number of losses.",
    ),
    "clipped before unscaling": (
        "The gradients were clipped to {limit:g} while multiplied by the loss scale {scale:g}, then divided by it.",
        "Call scaler.unscale_(optimizer) before clipping.",
    ),
    "not unscaled": (
        "The gradients are still multiplied by the loss scale {scale:g}.",
        "Step through scaler.step(optimizer), or divide by the scale first.",
    ),
    "unscaled too often": (
        "The gradients are divided by the loss scale {scale:g} once more than the loss was multiplied by it.",
        "Scale the loss before backward(), by scaler.scale(loss) or optimizer.scale_loss(loss), and unscale once.",
    ),
    "not clipped": (
        "The gradient was not clipped, although its norm is {norm:.6g} and the limit {limit:g}.",
        "Clip after backward() and before step().",
    ),
    "clipped before the sum": (
        "Each loss's gradient was clipped by itself before they were added.",
        "Clip the sum, once.",
    ),
    "clipped": (
        "The gradient is the sum scaled to the norm {norm:.6g}, and no clipping was declared.",
        "If you clip, say so: pe.watch(..., clip_norm={norm:.6g}).",
    ),
    "scaled": (
        "{reason}.",
        "Look for a mean, a division or a product that happens once too often or is missing.",
    ),
    "other weights": (
        "The gradient is a weighted sum of the losses' gradients, but {reason}.",
        "Compare the weights in the loop with those given here.",
    ),
    "not finite": (
        "The gradient that the optimizer was given is not finite in {names}, where the losses' gradients are{moved}.",
        "Look for a division by zero, a logarithm of 0 or a loss scale that is too high on its way.",
    ),
    "another gradient": (
        "The gradient at the shared layers is no combination of these losses' gradients: {reason}.",
        "Is it the batch that the loop used, in train mode, without a further term (regularizer, extra loss)?",
    ),
    "losses in turn": (
        "The shared layers were stepped {count} times for this batch, once per loss ({order}), not once on the sum.",
        "Add the weighted losses, call backward() once and step() once.",
    ),
    "several optimizers": (
        "The shared layers are held and stepped by {count} optimizers ({names}).",
        "Give every parameter to exactly one optimizer.",
    ),
    "stepped twice": (
        "The optimizer stepped {count} times on this batch.",
        "Call step() once per batch; if these were several batches, choose one with step=.",
    ),
    "not stepped": (
        "No optimizer holds {names}, though the losses reach them.",
        "Create the optimizer after the whole model is built, over all of its parameters.",
    ),
    "no gradient": (
        "{names} got no gradient, though the losses reach them.",
        "Look for detach(), no_grad(), requires_grad=False or a variable that the tape did not watch.",
    ),
    "head differs": (
        "The gradient of {names} is not the one of its own loss{factor}.",
        "Does another loss reach this head, or is its loss weighted or reduced otherwise?",
    ),
    "changed outside": (
        "{names} changed between the optimizer's steps.",
        "Look for code that writes to parameters: weight clipping, averaging, tying or loading.",
    ),
    "wrong step": (
        "The parameters did not move as {optimizer} moves them on the gradient that it was given.",
        "Look for a learning rate, weight decay or hook that changes around step().",
    ),
}

NAMES = tuple(_TEXTS)


def diagnosis(name: str, *, about: str = "", **numbers: object) -> Diagnosis:
    """The finding of that name, its texts filled in.

    >>> print(diagnosis("averaged", count=2))
    averaged: The gradient at the shared layers is the mean of the losses' gradients: every weight is divided by 2. \
Add the weighted losses instead of averaging them, or configure the weights that you mean.
    """
    sentence, remedy = _TEXTS[name]
    return Diagnosis(name, sentence.format(**numbers), remedy.format(**numbers), about)
