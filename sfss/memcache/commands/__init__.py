"""The commands of the protocol, by family: how each one's line is read and how it is carried out.

`table.COMMANDS` lists them all; `table.LANES` the short ways for lines that are frequent. `dispatch.carry_out`
refuses what a store doesn't offer and calls the handler. Handlers never see a socket.
"""
