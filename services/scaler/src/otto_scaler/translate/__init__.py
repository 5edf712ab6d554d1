"""Messages into the domain and back: pure functions, and the only place besides the servicer and clients that knows generated code.

`request` reads and checks what is asked for, all problems at once; `repository` knows which repositories and commits may be asked for;
`status` says how workers stand. `otto_options` is used here only.
"""
