"""What a benchmark sends: settings and one seed become requests, each with a task, a time, a prompt and a length.

Pure but for reading dataset files, and seeded: the same settings give the same requests to the byte, on every machine.

    settings     the settings of a load, with the names of the command's flags; open this first
    consistency  which settings go together
    build        settings -> `Plan` (open loop, trace), `EndlessPlan` (closed loop) or `SessionPlan` (agents)
    planned      one request, and a plan: columns of numbers; prompts are made when they are asked for
    endless      the requests of a closed loop, by number
    replay       the plan of a trace
    seeds        one random stream for each purpose, so that a change of one leaves the others as they were
    popularity   rank Zipf over the tasks, and the shift of the hot task
    arrivals     times of arrival, and ramps
    lengths      distributions of input and output lengths
    prompts/     the content of a request: random token ids, datasets
    agents/      sessions of several agents over one growing context

Belongs here: a decision about what is sent. Does not belong here: sockets, clocks, asyncio (`client/`, `drive/`).
"""
