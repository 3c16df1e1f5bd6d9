"""Files, processes, reports and settings of the machine. Nothing here knows of video, audio or networks."""
