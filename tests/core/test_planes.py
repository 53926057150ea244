"""The picture of a volume: the right planes, the right way up."""

import base64
import io
import re

import numpy as np
from PIL import Image

from denovox.core.display.planes import HEIGHT, planes_png
from denovox.core.volume import Volume


def test_bright_corners_lie_where_radiologists_look_for_them():
    hu = np.full((40, 40, 40), -200.0, np.float32)
    hu[30:, :, :] = 300  # the patient's right side
    picture = np.asarray(Image.open(io.BytesIO(planes_png(hu, (1, 1, 1)))))
    assert picture.shape == (HEIGHT, 3 * HEIGHT)
    axial = picture[:, :HEIGHT]
    assert axial[:, :40].min() == 255  # the patient's right is on the picture's left
    assert axial[:, -40:].max() == 0
    hu[:] = -200
    hu[:, 30:, 30:] = 300  # anterior and superior
    picture = np.asarray(Image.open(io.BytesIO(planes_png(hu, (1, 1, 1)))))
    sagittal = picture[:, 2 * HEIGHT :]
    assert sagittal[:40, :40].min() == 255  # anterior on the left, superior at the top
    assert sagittal[-40:].max() == 0


def test_planes_are_in_proportion():
    picture = Image.open(io.BytesIO(planes_png(np.zeros((20, 10, 5), np.float32), (1, 1, 4))))
    assert picture.size == (2 * HEIGHT + HEIGHT + HEIGHT // 2, HEIGHT)


def test_a_notebook_shows_a_volume_without_a_link_to_anywhere():
    html = Volume.from_numpy(np.zeros((4, 5, 6)), spacing_mm=(1, 2, 3))._repr_html_()
    assert "4 x 5 x 6 voxels of 1 x 2 x 3 mm" in html
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "http" not in html
