"""The modules of a prefill worker in host memory, and the HTTP routes by which the router gives them.

    keeper  which modules a worker has, which of them are in host memory, and which requests use them
    page    `GET`, `POST` and `DELETE` of `/sun/modules`

Belongs here: code of the HTTP process. Does not belong here: the change of weights in the scheduler, and which module
has its turn (`patches/modules/`, `module_turns/`). Open `keeper.py` first.
"""
