"""What ottoctl reads of a Kubernetes cluster, for `doctor` and `support-bundle`: objects as they come, logs, and what pods tell of
themselves.

The only part of ottoctl that imports kubekit (the extra `cluster` brings it). But for `place`, the options, it is imported only when a
cluster is asked for: all else needs just the wire contract. It changes nothing in a cluster.
"""
