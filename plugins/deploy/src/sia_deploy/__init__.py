"""The best agent of a run outside of SIA: as a folder that runs on its own, or behind an endpoint."""
