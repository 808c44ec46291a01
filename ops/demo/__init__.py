"""The demo: a hotel under load, processes killed meanwhile, and the proof that nothing was lost."""
