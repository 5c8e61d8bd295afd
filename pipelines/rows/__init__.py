"""`make rows`: print the rows of an output that fit a query, as `make view` lists them."""
