"""A result as one HTML file, by jinja2: the verdict, the tables, the text; nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..errors import sentence
from ..files import write_atomically


class Judged(Protocol):
    """What can be written: both kinds of results."""

    def to_dict(self) -> dict[str, Any]: ...
    def to_json(self, indent: int | None = 2) -> str: ...


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pyengine: {{ data.verdict }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; }
th { font-weight: normal; opacity: .7; border-bottom: 1px solid; }
pre { overflow-x: auto; font-size: 13px; }
.verdict { font-weight: bold; padding: .1rem .6rem; border-radius: .3rem; color: white; }
.CONSISTENT, .CERTIFIED { background: #1a7f37; }
.INCONSISTENT, .REFUTED, .REFUTED_STATISTICAL { background: #b42318; }
.INCONCLUSIVE { background: #8a6100; }
</style>
</head>
<body>
<h1><span class="verdict {{ data.verdict }}">{{ data.verdict }}</span></h1>
<p>{{ data.answer }}</p>
{% if data.combination %}
<h2>Gradient at the shared layers</h2>
<p>G = Σ α·∇loss is {{ data.combination.verdict }}: {{ data.combination.reason }}.</p>
<table>
<tr><th>loss</th><th>α</th><th>from</th><th>to</th><th>configured</th></tr>
{% for name, a in data.combination.alpha.items() %}
<tr><td>{{ name }}</td><td>{{ "%.9g"|format(a.value) }}</td><td>{{ "%.9g"|format(a.low) }}</td>
<td>{{ "%.9g"|format(a.high) }}</td><td>{{ "%g"|format(a.configured) }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if data["update"] %}
<h2>Update</h2>
<p>{{ data["update"].optimizer }}: {{ data["update"].rule }}, {{ data["update"].reason }}.</p>
<table>
<tr><th>rule</th><th>misfit</th><th>weights outside</th><th></th></tr>
{% for h in data["update"].hypotheses %}
<tr><td>{{ h.name }}</td><td>{{ "%.3g"|format(h.misfit) }}</td><td>{{ h.outside }} of {{ h.elements }}</td>
<td>{{ "fits" if h.fits else "" }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if data.reach %}
<h2>Reach</h2>
<table>
<tr><th>parameter</th>{% for loss in data.reach %}<th>{{ loss }}</th>{% endfor %}</tr>
{% for name in (data.reach.values()|first) %}
<tr><td>{{ name }}</td>{% for touched in data.reach.values() %}<td>{{ touched.get(name, "") }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
<h2>The whole report</h2>
<pre>{{ text }}</pre>
<details><summary>JSON</summary><pre>{{ json }}</pre></details>
</body>
</html>
"""


def render(result: Judged) -> str:
    """The page as text. Raises ``ModuleNotFoundError`` without jinja2."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HTML reports need jinja2; install it with: pip install 'pyengine-grad[report]'"
        ) from error
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    return template.render(data=result.to_dict(), text=str(result), json=result.to_json())


def write(result: Judged, path: str | Path) -> None:
    """Write the page; an old file is replaced only when the new one is complete."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            sentence("path", got=f"is {target}", expected="a file in a folder that exists", remedy="Create the folder.")
        )
    write_atomically(target, render(result))
