"""General utilities: files, processes, reports and machine settings; could be used in any project.

Knows nothing of video, audio or networks.
"""
