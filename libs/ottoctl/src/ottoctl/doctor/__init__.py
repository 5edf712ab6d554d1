"""`ottoctl doctor`: looks at everything between the user and the services, and says what is wrong and what to do.

Tables of checks (`examination`, and `cluster_examination` for a release on a cluster, which brings kubekit), one function each, which see
the case as it is: they start nothing, change nothing and guess nothing.
Facts of this machine are read from /proc and the file system in a small way of ottoctl's own, because it may import no service.
"""
