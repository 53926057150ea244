"""`denovox`, whose Muon computes in float32 also where bfloat16 is native, so that a last bit stays
one: in bfloat16 it is a whole rounding, which six steps make into a thousandth of a loss."""

from denovox.app.cli import main
from denovox.train import muon

muon.use_bfloat16 = lambda *_: False

if __name__ == "__main__":
    main()
