"""`denovox adapt`: a short run from a base, judged by how it denoises a held-out patient."""
