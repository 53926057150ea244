"""denovox by the conventions of other packages, which are imported only here."""
