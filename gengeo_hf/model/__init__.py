"""(filled by the room)"""
