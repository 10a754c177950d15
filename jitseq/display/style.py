"""The rules of style of all displays.

Nothing enters; CSS leaves. Invariant: each rule is below the class ``jitseq``, text
and lines have the colour of the page around them, fills are translucent, and accents
are of middle lightness, so that they are readable on light and dark backgrounds.
"""

from __future__ import annotations

ACCENTS = {
    "contraction": "#3b82f6",
    "window": "#0d9488",
    "pointwise": "#d97706",
    "reduction": "#a855f7",
    "movement": "#7c8794",
    "gradient": "#e0528d",
    "update": "#dc4c3e",
    "composite": "#65a30d",
    "end": "#7c8794",
}
"""A colour for each family of ops; ``end`` is that of inputs and outputs."""

MONOSPACE = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

_KINDS = "\n".join(
    f".jitseq .kind-{kind} {{ --accent: {colour}; }}"
    for kind, colour in ACCENTS.items()
)

CSS = f"""
.jitseq {{ --accent: #3b82f6; font: 13px/1.45 system-ui, sans-serif; color: inherit;
  max-width: 1080px; }}
{_KINDS}
.jitseq h2, .jitseq h3 {{ margin: 1.1em 0 .4em; font-weight: 600; line-height: 1.25; }}
.jitseq h2 {{ font-size: 17px; }}
.jitseq h3 {{ font-size: 14px; }}
.jitseq p {{ margin: .4em 0; }}
.jitseq .muted {{ opacity: .75; }}
.jitseq .scroll {{ overflow: auto; max-width: 100%; }}
.jitseq .tall {{ max-height: 640px; border-radius: 4px;
  border: 1px solid rgba(128, 128, 128, .25); }}
.jitseq table {{ border-collapse: collapse; margin: .3em 0; font-size: 12.5px;
  font-variant-numeric: tabular-nums; width: auto; }}
.jitseq.jitseq table th, .jitseq.jitseq table td {{
  padding: 2px 12px 2px 0; text-align: left;
  vertical-align: baseline; white-space: nowrap; border: 0; background: none;
  border-bottom: 1px solid rgba(128, 128, 128, .25); }}
.jitseq table th {{ font-weight: 600; opacity: .8; }}
.jitseq.jitseq table .n {{ text-align: right; }}
.jitseq table tfoot td {{ font-weight: 600; border-bottom: 0; }}
.jitseq code, .jitseq pre {{ font-family: {MONOSPACE}; font-size: 12px;
  background: none; color: inherit; }}
.jitseq pre {{ overflow: auto; max-height: 480px; padding: 8px; margin: .4em 0;
  border: 1px solid rgba(128, 128, 128, .3); border-radius: 4px; line-height: 1.35; }}
.jitseq details {{ margin: .35em 0; }}
.jitseq summary {{ cursor: pointer; }}
.jitseq ul {{ margin: .2em 0 .4em; padding-left: 1.6em; }}
.jitseq .bar {{ display: inline-block; width: 64px; height: 9px; margin-right: 7px;
  border-radius: 2px; background: rgba(128, 128, 128, .22); overflow: hidden; }}
.jitseq .bar i {{ display: block; height: 100%; background: var(--accent); }}
.jitseq .legend span.key {{ display: inline-block; margin-right: 14px;
  white-space: nowrap; }}
.jitseq .legend i {{ display: inline-block; width: 10px; height: 10px;
  margin-right: 5px; border-radius: 2px; background: var(--accent); }}
.jitseq .legend i.rule {{ width: 20px; height: 0; background: none;
  border-top: 2px solid var(--accent); border-radius: 0; vertical-align: middle; }}
.jitseq .legend i.dashed {{ border-top-style: dashed; }}
.jitseq .side {{ display: flex; flex-wrap: wrap; gap: 12px 28px;
  align-items: flex-start; }}
.jitseq svg {{ display: block; }}
.jitseq svg.chart {{ width: 100%; max-width: 500px; height: auto; }}
.jitseq text {{ fill: currentColor; font: 11px system-ui, sans-serif; }}
.jitseq .mono {{ font-family: {MONOSPACE}; font-size: 12px; }}
.jitseq .strong {{ font-weight: 600; }}
.jitseq .soft {{ opacity: .75; }}
.jitseq .end {{ text-anchor: end; }}
.jitseq .middle {{ text-anchor: middle; }}
.jitseq .frame {{ fill: var(--accent); fill-opacity: .13; stroke: var(--accent);
  stroke-width: 1.2; }}
.jitseq .plain {{ fill-opacity: .05; }}
.jitseq .dashed {{ stroke-dasharray: 4 3; }}
.jitseq .fill {{ fill: var(--accent); }}
.jitseq .track {{ fill: currentColor; fill-opacity: .12; }}
.jitseq .edge {{ fill: none; stroke: currentColor; stroke-opacity: .55;
  stroke-width: 1.2; }}
.jitseq .arrow {{ fill: currentColor; fill-opacity: .65; }}
.jitseq .grid {{ stroke: currentColor; stroke-opacity: .14; }}
.jitseq .axis {{ stroke: currentColor; stroke-opacity: .5; }}
.jitseq .line {{ fill: none; stroke: var(--accent); stroke-width: 1.8; }}
"""

STANDALONE = """
svg.jitseq { color-scheme: light dark; color: #1f2328; }
@media (prefers-color-scheme: dark) { svg.jitseq { color: #e6edf3; } }
"""
"""Colours of a picture in a file of its own."""

PAGE = """
:root { color-scheme: light dark; }
body { margin: 0; background: Canvas; color: CanvasText; }
main.jitseq { margin: 0 auto; padding: 16px 14px 48px; }
main.jitseq h1 { font-size: 21px; margin: .2em 0 .3em; }
main.jitseq nav a { margin-right: 14px; color: inherit; display: inline-block; }
"""
"""Rules of a page of its own, whose background is the browser's."""
