"""Train on many machines: hosts and a run to exact commands, carried out over a transport, supervised.

    hosts.py      workers.json or addresses -> hosts
    plan.py       hosts + run + attempt -> ranks, variables, commands (pure)
    agent.py      runs on every node: starts the ranks, keeps the lease, ends what nobody attends
    supervisor.py runs on the master: starts the gang, watches it, restarts it from the newest checkpoint

Nothing on a node imports more than the standard library until a rank starts.
"""
