"""`denovox evaluate all`: every protocol that a store allows, with rivals, on one page."""
