"""The worker that runs model-written code: one throw-away child a call, forked from a warm interpreter.

These files run in a process of their own: plainly, under bubblewrap, or as process 1 of a container that has nothing of
this package. So they use the standard library only, import one another relatively, and travel in the command that
starts the worker (``boot.py``), under another name than here.

The worker, or *zygote*, imports what programs use once, and then reads one request a line from what was its standard
input and writes one answer a line to what was its standard output: ASCII JSON, so that any text survives
(``messages.py``). For each request it forks a child that runs the program as a notebook does. A call ends with its main
process, its deadline or a flood of output; then every process that it started is killed and reaped, and its files are
removed. The child has no descriptor of the protocol, so it cannot forge an answer.
"""
