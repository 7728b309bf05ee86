def recognise(module):
    pass
