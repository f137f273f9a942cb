"""Our own inspected parts: height fields under a light, with defects written into height and color.

`render` makes one picture, `render_pair` the same part sound and defective, `items` the images of a demo category as a
source. The modules below are usable alone: `noise`, the materials (`metals`, `wood`, `woven`, `leather`, `mineral`),
`parts`, `defects`, `shading`; only `demo` and `demo_defects` know the demo categories.
"""

from anosynth.sources.procedural.demo import CATEGORIES
from anosynth.sources.procedural.demo_defects import DEFECTS
from anosynth.sources.procedural.listing import items
from anosynth.sources.procedural.render import Pair, Rendered, render, render_pair

__all__ = ["CATEGORIES", "DEFECTS", "Pair", "Rendered", "items", "render", "render_pair"]
