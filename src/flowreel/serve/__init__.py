"""``flowreel serve``: an endless generation, live in a browser, that viewers steer.

Knows bytes and people, and generates through ``Pipeline.stream`` and ``Pipeline.clips`` alone.
"""
