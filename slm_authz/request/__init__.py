"""ROOM 1: the call as it arrived, and how its parts are read: target, body, client address, credential."""

from slm_authz.request.context import Arrival, RequestContext

__all__ = ["Arrival", "RequestContext"]
