"""`ottoctl doctor`: looks at everything between the user and the services, and says what is wrong and what to do.

A table of checks (`examination`), one function each, which see the case as it is: they start nothing, change nothing and guess nothing.
Facts of this machine are read from /proc and the file system in a small way of ottoctl's own, because it may import no service.
"""
