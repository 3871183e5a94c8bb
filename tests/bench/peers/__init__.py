"""The standard work in other systems, each written as its users would, each giving the alerts of the oracle.

The rules are fixed in all of them and their alerts do not explain themselves: what the lane does beyond that is part of its price.
"""
