"""One training loop, the tasks that it runs (flow, autoencoder, vocoders) and their losses.

Everything that trains goes through :func:`flowreel.training.loop.fit`.
"""
