"""`make view`: a local web page that shows the output of a filter run, finished or not.

It reads the committed results, writes nothing, and makes no network requests.
"""
