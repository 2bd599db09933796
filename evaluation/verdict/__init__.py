"""One video: is a face in it forged, how sure is that, and what does the answer rest on."""
