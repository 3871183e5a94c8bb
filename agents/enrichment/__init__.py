"""Profiles from outside: the sources that know them, and how to ask without ever waiting long.

``lookup.ProfileLookup`` is what a job uses: cache first, then the database, then the default profile, each guarded by a circuit breaker
and asked once however many events want the same user.
"""
