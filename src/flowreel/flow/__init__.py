"""Flow matching over windows of frames: schedules, objective, solvers, guidance and the endless stream.

Imports torch alone. ``t = 0`` is noise, ``t = 1`` is data, ``x_t = t * data + (1 - t) * noise``, velocity
``u = data - noise`` (rectified flow, arXiv 2209.03003), and every frame of every stream has its own time.
"""
