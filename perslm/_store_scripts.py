"""What runs inside the server: one Lua script for every operation on a user.

``perslm.store`` describes the keys and the rules; it sends each script whole (EVAL), with all keys
of the user declared: KEYS = head, fence, slot 0 … slot 7.

A change is announced (``KIND GENERATION HEAD`` on the channel) before the first write, so that a
server that forbids it changes nothing. Nobody can read the user's keys until the script has ended.
"""

from __future__ import annotations

from typing import Final

from perslm._store_keys import SLOTS

# A pointer below the fence does not count: a deletion that was cut short put up the fence first.
# ``key`` is the wrapped data key of a user whose models are encrypted, else false; ``coming`` the
# one that a PROTECT which was cut short had begun to use.
_PRELUDE: Final = f"""
local head = redis.call('HMGET', KEYS[1], 'generation', 'fence', 'key', 'coming')
local generation, fence = tonumber(head[1] or 0), tonumber(head[2] or 0)
local raised = tonumber(redis.call('GET', KEYS[2]) or 0)
if raised > fence then generation, fence = 0, raised end
local key, coming = generation > 0 and head[3], generation > 0 and head[4]
local function slot(number) return KEYS[3 + number % {SLOTS}] end
local function id(wrapped) return string.sub(wrapped, 6, 21) end
"""

HEAD: Final = _PRELUDE + "return {generation, fence, key or '', coming or ''}"

# ARGV: wanted generation or 0, fields. Reply: nil, 'lost', or the two data keys ('': none) and
# the fields' values.
FETCH: Final = (
    _PRELUDE
    + """
local wanted = tonumber(ARGV[1])
local current = wanted == 0 or wanted == generation
if current then wanted = generation end
if generation == 0 then return false end
if tonumber(redis.call('HGET', slot(wanted), 'generation') or 0) ~= wanted then
  if current then return 'lost' end
  return false
end
return {key or '', coming or '', redis.call('HMGET', slot(wanted), unpack(ARGV, 2))}
"""
)

# ARGV: fields. Reply: current generation, then the fields' values of every slot in use.
LIST: Final = (
    _PRELUDE
    + """
local found = {generation}
if generation > 0 then
  for i = 3, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then
      found[#found + 1] = redis.call('HMGET', KEYS[i], unpack(ARGV))
    end
  end
end
return found
"""
)

# ARGV: parent's generation and fence, nonce, seconds to keep the parent, channel, what to announce,
# data key that the blob is encrypted with or '', data key that this one may replace or '', field,
# value, …. Without fields: publish again what the parent replaced. Reply: verdict, generation.
# The first write is one that a full memory refuses; after it, the server lets a script finish.
PUBLISH: Final = (
    _PRELUDE
    + """
local parent, parent_fence, nonce, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local given = ARGV[7]
local new = math.max(parent, parent_fence) + 1
if generation >= new and redis.call('HGET', slot(new), 'nonce') == nonce then
  return {'published', new}
end
if fence ~= parent_fence then return {'forgotten', generation} end
if generation ~= parent then return {'conflict', generation} end
if key and given == '' then return {'encrypted', generation} end
if key and id(key) ~= id(given) and key ~= ARGV[8] then return {'rekeyed', generation} end
local fields = {unpack(ARGV, 9)}
if #fields == 0 then
  local previous = tonumber(redis.call('HGET', slot(parent), 'previous') or 0)
  local found = tonumber(redis.call('HGET', slot(previous), 'generation') or 0)
  if previous == 0 or found ~= previous then return {'nothing', generation} end
  local stored = redis.call('HGETALL', slot(previous))
  for i = 1, #stored, 2 do
    if stored[i] ~= 'generation' and stored[i] ~= 'nonce' then
      fields[#fields + 1], fields[#fields + 2] = stored[i], stored[i + 1]
    end
  end
end
redis.call('PUBLISH', ARGV[5], ARGV[6] .. ' ' .. new .. ' ' .. KEYS[1])
redis.call('HSET', slot(new), 'generation', new, 'nonce', nonce, unpack(fields))
redis.call('PERSIST', slot(new))
local pointer = {'generation', new, 'fence', fence}
if given ~= '' and not (key and id(key) == id(given)) then
  pointer[5], pointer[6] = 'key', given
end
redis.call('HSET', KEYS[1], unpack(pointer))
if parent > 0 then redis.call('EXPIRE', slot(parent), keep) end
return {'published', new}
"""
)

# ARGV: data key as it was read or '', the same wrapped anew. Reply: 1, or 0 if it has changed.
REWRAP: Final = (
    _PRELUDE
    + """
if key == ARGV[2] then return 1 end
if not key or key ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'key', ARGV[2])
return 1
"""
)

# ARGV: data key as it was read or '', the new one, then generation, blob, … of all that are kept.
# Reply: 1, or 0 if something changed since it was read. Generations that expired meanwhile do not
# matter, nor those that were never pointed to. The first write is one that a full memory refuses,
# and lets readers go on with both keys should the script be cut short.
PROTECT: Final = (
    _PRELUDE
    + """
if generation == 0 or key == ARGV[2] then return 1 end
if (key or '') ~= ARGV[1] or coming and coming ~= ARGV[2] then return 0 end
local blobs = {}
for i = 3, #ARGV, 2 do blobs[tonumber(ARGV[i])] = ARGV[i + 1] end
for i = 3, #KEYS do
  local found = tonumber(redis.call('HGET', KEYS[i], 'generation') or 0)
  if found > 0 and found <= generation and not blobs[found] then return 0 end
end
redis.call('HSET', KEYS[1], 'coming', ARGV[2])
for number, blob in pairs(blobs) do
  if tonumber(redis.call('HGET', slot(number), 'generation') or 0) == number then
    redis.call('HSET', slot(number), 'blob', blob)
  end
end
redis.call('HSET', KEYS[1], 'key', ARGV[2])
redis.call('HDEL', KEYS[1], 'coming')
return 1
"""
)

# ARGV: seconds the fence stays, channel. Reply: 1 if there was a model. A user without one is
# fenced off too: the first build may be running. The first write changes nothing (a head never
# expires), but is one that a full memory allows, and with it all that follow: deleting must always
# be possible. So it is also where the channel is forbidden, which is an error afterwards.
FORGET: Final = (
    _PRELUDE
    + """
local new = math.max(generation, fence) + 1
local told = redis.pcall('PUBLISH', ARGV[2], 'forget ' .. new .. ' ' .. KEYS[1])
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[2], new, 'EX', ARGV[1])
redis.call('DEL', KEYS[1], unpack(KEYS, 3))
if type(told) == 'table' and told.err then return redis.error_reply(told.err) end
if generation > 0 then return 1 end
return 0
"""
)

# Reply: nothing if there is no model; else the head's fields and values, then for every slot in use
# the seconds that it has left (-1: for ever), and its fields and values.
SNAPSHOT: Final = (
    _PRELUDE
    + """
if generation == 0 then return {false} end
local found = {redis.call('HGETALL', KEYS[1])}
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    found[#found + 1] = {redis.call('TTL', KEYS[i]), redis.call('HGETALL', KEYS[i])}
  end
end
return found
"""
)

# ARGV: what the fence is raised by above the generation, how many words the head has and these,
# then for every slot its seconds, how many words and these. Reply: what was found or done. The
# pointer is written last, so that a script that was cut short can be repeated.
RESTORE: Final = (
    _PRELUDE
    + """
if generation > 0 then return 'present' end
if fence > 0 then return 'deleted' end
local at = 2
local function words()
  local count = tonumber(ARGV[at])
  local found = {unpack(ARGV, at + 1, at + count)}
  at = at + count + 1
  return found
end
local function place(fields, name)
  for i = 1, #fields, 2 do if fields[i] == name then return i + 1 end end
end
local pointer = words()
while at <= #ARGV do
  local seconds = tonumber(ARGV[at])
  at = at + 1
  local fields = words()
  local number = tonumber(fields[place(fields, 'generation')])
  redis.call('HSET', slot(number), unpack(fields))
  if seconds >= 0 then redis.call('EXPIRE', slot(number), seconds) end
end
pointer[place(pointer, 'fence')] = pointer[place(pointer, 'generation')] + ARGV[1]
redis.call('HSET', KEYS[1], unpack(pointer))
return 'restored'
"""
)
