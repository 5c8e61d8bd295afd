"""`make view`: a local web page over the output of a filter run, finished or not.

It reads what the run has committed, writes nothing, and asks nothing of the network.
"""
