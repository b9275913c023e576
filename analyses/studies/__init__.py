"""A study: what is asked, carried out, judged, reported."""
