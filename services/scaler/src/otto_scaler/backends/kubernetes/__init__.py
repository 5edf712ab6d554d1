"""The Kubernetes backend: a worker is a pod, a workspace that workers share a PersistentVolumeClaim. Pods are all the state there is.

`marks` is what a pod says about its worker, there and back; `template`, `manifest` and `checkout` make a pod out of a spec; `judging` and
`trouble` read how a worker stands, and why, out of what the cluster says about its pod; `entry` is what is held of one in memory,
`tending` keeps that true and acts when a time is over; `claims` keeps workspaces, `pace` how many pods are created at once; `backend`
puts these together behind the WorkerBackend Protocol. Of the cluster's API only `otto_kubekit` is known here.
"""
