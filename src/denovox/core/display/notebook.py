"""How Jupyter shows scans: in NiiVue where ipyniivue is installed (the extra `notebook`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .embedded import averaged, niftis
from .planes import LEVEL_HU, WIDTH_HU, html

if TYPE_CHECKING:
    from ..volume import Volume

# Of images in one output. Jupyter keeps them in the kernel's memory, sends them to the browser,
# and writes them to the .ipynb file where the state of widgets is saved.
MOST_MB = 10.0
HEIGHT = 480  # pixels
NAMES = ("before", "after")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two scans on one grid, for a notebook; see `Volume.compared_with`."""

    before: Volume
    after: Volume

    def _repr_html_(self) -> str:
        """Three planes of each, for Jupyter."""
        images = zip(NAMES, (self.before, self.after), strict=True)
        return "\n".join(f"<p>{name}</p>{html(one.hu, one.spacing_mm)}" for name, one in images)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """The viewer, for Jupyter; None where there is none."""
        return mimebundle(self.before, self.after)


def mimebundle(scan: Volume, after: Volume | None = None) -> dict[str, Any] | None:
    """What Jupyter shows instead of the three planes: a NiiVue widget with linked planes.

    after: the result, on the grid of `scan`, which a slider fades in over it. None where ipyniivue
    is not installed, and outside Jupyter.
    """
    if "ipykernel" not in sys.modules or find_spec("ipyniivue") is None:
        return None  # IPython in a terminal asks, too, and shows text
    shown: dict[str, Any] = _widget(scan, after)._repr_mimebundle_()
    return {name: value for name, value in shown.items() if name != "text/plain"}


def _widget(scan: Volume, after: Volume | None) -> Any:
    """An ipywidgets box: NiiVue, the slider, and what was done to the images."""
    import ipyniivue
    import ipywidgets

    scans = [scan] if after is None else [scan, after]
    files, shape = niftis([one.hu for one in scans], [], scan.affine, MOST_MB)
    names = ("scan",) if after is None else NAMES
    images = [
        ipyniivue.Volume(
            data=file,
            name=f"{name}.nii.gz",
            colormap="gray",
            cal_min=LEVEL_HU - WIDTH_HU / 2,
            cal_max=LEVEL_HU + WIDTH_HU / 2,
            opacity=1.0 if name != "after" else 0.5,
        )
        for name, file in zip(names, files, strict=True)
    ]
    viewer = ipyniivue.NiiVue(
        HEIGHT,
        is_radiological_convention=True,
        multiplanar_show_render=ipyniivue.ShowRender.NEVER,
        drag_and_drop_enabled=False,
        is_force_mouse_click_to_voxel_centers=True,
    )
    viewer.load_volumes(images)
    parts: list[Any] = [viewer]
    if after is not None:
        slider = ipywidgets.FloatSlider(
            0.5, min=0.0, max=1.0, step=0.01, readout=False, description="before / after"
        )
        slider.layout.width = "100%"
        slider.style.description_width = "initial"
        ipywidgets.jslink((slider, "value"), (images[1], "opacity"))  # needs no kernel
        parts.append(slider)
    if note := averaged(scan.shape, shape):
        parts.append(ipywidgets.Label(note))
    return ipywidgets.VBox(parts)
