"""The HTTP API, floor by floor; each imports what is below it.

serving                                 a process with a socket
app                                     all of it put together
middleware  openapi  health  …          what is around the routes, and beside them
reservations  inventory  rooms          the routes, by what they are about
requests                                what a request says, read strictly
identity  problems                      who calls; what is answered when it fails
"""
