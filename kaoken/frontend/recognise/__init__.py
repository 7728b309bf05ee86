def recognise(module): pass
