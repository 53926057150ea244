"""A store behind an S3-compatible endpoint: found and read by box, like a folder."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import sampler
from denovox.datasets.store import add, cases, index

fsspec = pytest.importorskip("s3fs", reason="the [s3] extra is not installed")
moto = pytest.importorskip("moto.server")
SHAPE = (150, 70, 40)


@pytest.fixture(scope="module")
def bucket():
    """An S3 service on loopback, with an empty bucket."""
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        s3 = s3fs.S3FileSystem()
        s3.mkdir("scans")
        yield s3
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
def test_a_store_on_s3_is_the_store_of_its_folder(bucket, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        facts = CaseFacts(id=name, patient=name, region="chest", spacing_mm=(1, 1, 1))
        ct = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
        add(tmp_path / "store", facts, ct, rng.integers(0, 118, SHAPE).astype(np.uint8))
    index(tmp_path / "store")
    bucket.put(str(tmp_path / "store"), "scans/mine", recursive=True)

    here, there = cases(tmp_path / "store"), cases("s3://scans/mine")
    assert [case.facts for case in there] == [case.facts for case in here]
    for box in (((3, 4, 5), (32, 32, 32)), ((0, 0, 0), SHAPE)):
        for one, other in zip(
            here[1].read(*box, (32,) * 3), there[1].read(*box, (32,) * 3), strict=True
        ):
            assert np.array_equal(one, other)
    config = SampleConfig(patch=16)
    one, other = sampler(here, config, 0)(5), sampler(there, config, 0)(5)
    assert np.array_equal(one.x0, other.x0)


def test_a_place_without_a_store_is_named(bucket):
    with pytest.raises(InputError, match="s3://scans/nothing: no store here"):
        cases("s3://scans/nothing")


def test_a_protocol_nobody_knows_is_named():
    with pytest.raises(InputError, match="cannot be read"):
        cases("nonsense://x/y")
