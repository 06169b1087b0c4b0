"""What runs inside the server: one Lua script for every operation on a user.

``perslm.store`` describes the keys and the rules; it sends each script whole (EVAL), with all keys
of the user declared: KEYS = head, fence, slot 0 … slot 7, pending, rules. The fields of a head and
of a slot have names of one letter, which a hundred million users have a hundred million times:
``FIELDS`` has those of a generation, of which ``p`` is absent where nothing was replaced; a head
has also the fence ``f`` (absent: 0), and of an encrypted user the data key ``k``, and ``c``, the
one that a PROTECT which was cut short had begun to use.

A change is announced (``KIND GENERATION HEAD`` on the channel) before the first write, so that a
server that forbids it changes nothing. Nobody can read the user's keys until the script has ended.
"""

from __future__ import annotations

from typing import Final

from perslm._store_keys import SLOTS

FIELDS: Final = {
    "generation": "g",
    "previous": "p",
    "created": "t",
    "source_digest": "d",
    "messages": "m",
    "tokens": "w",
    "vocabulary": "v",
    "nonce": "n",
    "blob": "b",
}
_ALL: Final = ", ".join(f"'{letter}'" for letter in FIELDS.values())

# A pointer below the fence does not count: a deletion that was cut short put up the fence first.
# ``key`` is the wrapped data key of a user whose models are encrypted, else false.
_PRELUDE: Final = f"""
local head = redis.call('HMGET', KEYS[1], 'g', 'f', 'k', 'c')
local generation, fence = tonumber(head[1] or 0), tonumber(head[2] or 0)
local raised = tonumber(redis.call('GET', KEYS[2]) or 0)
if raised > fence then generation, fence = 0, raised end
local key, coming = generation > 0 and head[3], generation > 0 and head[4]
local PENDING, RULES, LAST = KEYS[{SLOTS + 3}], KEYS[{SLOTS + 4}], {SLOTS + 2}
local function slot(number) return KEYS[3 + number % {SLOTS}] end
local function at(number) return number == generation and KEYS[1] or slot(number) end
local function has(number) return tonumber(redis.call('HGET', at(number), 'g') or 0) == number end
local function id(wrapped) return string.sub(wrapped, 6, 21) end
"""

# Reply: generation, fence, the two data keys ('': none), how many messages are pending, the
# milliseconds that the fence of a deletion has left (-2: there is none), the revision of the rules
# ('1' if only the wish to have no model is left), and the source digest that was published.
HEAD: Final = (
    _PRELUDE
    + """
local rules = redis.call('HGET', RULES, 'revision') or redis.call('HGET', RULES, 'out') or ''
local left = redis.call('PTTL', KEYS[2])
if generation == 0 then return {0, fence, '', '', 0, left, rules, ''} end
local digest = redis.call('HGET', KEYS[1], 'd') or ''
local pending = redis.call('HLEN', PENDING)
return {generation, fence, key or '', coming or '', pending, left, rules, digest}
"""
)

# The same for many users in a pipeline, without the keys; as one line, which is parsed sooner.
# KEYS = head, fence, pending, rules.
HEADS: Final = """
local head = redis.call('HMGET', KEYS[1], 'g', 'f', 'd')
local generation, fence = tonumber(head[1] or 0), tonumber(head[2] or 0)
local raised = tonumber(redis.call('GET', KEYS[2]) or 0)
if raised > fence then generation, fence = 0, raised end
local rules = redis.call('HGET', KEYS[4], 'revision') or redis.call('HGET', KEYS[4], 'out') or ''
local left = redis.call('PTTL', KEYS[2])
if generation == 0 then return '0 ' .. fence .. ' 0 ' .. left .. ' ' .. rules .. ' ' end
local pending = redis.call('HLEN', KEYS[3])
return table.concat({generation, fence, pending, left, rules, head[3] or ''}, ' ')
"""

# ARGV: wanted generation or 0, fields. Reply: nil, or the two data keys ('': none), the
# fields' values and, with 0, marks and values of the pending messages, and the rules.
FETCH: Final = (
    _PRELUDE
    + """
local wanted = tonumber(ARGV[1])
if wanted == 0 then wanted = generation end
if generation == 0 or not has(wanted) then return false end
local fields, pending, rules = redis.call('HMGET', at(wanted), unpack(ARGV, 2)), {}, {}
if ARGV[1] == '0' then
  pending = redis.call('HGETALL', PENDING)
  rules = redis.call('HMGET', RULES, 'out', 'rules', 'revision')
end
return {key or '', coming or '', fields, pending, rules}
"""
)

# ARGV: fields. Reply: current generation, 1 if the blobs are encrypted, then the fields' values of
# every slot in use and last of the head, each with the length of the blob.
LIST: Final = (
    _PRELUDE
    + """
local found = {generation, key and 1 or 0}
local function add(place)
  local row = redis.call('HMGET', place, unpack(ARGV))
  row[#row + 1] = redis.call('HSTRLEN', place, 'b')
  found[#found + 1] = row
end
if generation > 0 then
  for i = 3, LAST do
    if redis.call('EXISTS', KEYS[i]) == 1 then add(KEYS[i]) end
  end
  add(KEYS[1])
end
return found
"""
)

# ARGV: parent's generation and fence, nonce, seconds to keep the parent (-1: no earlier generation
# stays), channel, what to announce, data key that the blob is encrypted with or '', data key that
# this one may replace or '', how many marks of pending messages the blob has, and these, then
# field, value, …. Without fields: publish again what the parent replaced. Reply: verdict,
# generation. What is replaced is copied to its slot, then one write puts the new in its place. The
# first write is one that a full memory refuses; after it, the server lets a script finish. Pending
# messages go last: a script that was cut short before has them twice until it is repeated, never
# not at all. Where the data key was damaged, or a deletion was cut short, none can be read or may
# stay.
PUBLISH: Final = (
    _PRELUDE
    + f"""
local ALL = {{{_ALL}}}
"""
    + """
local parent, parent_fence, nonce, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local given, folded = ARGV[7], tonumber(ARGV[9])
local new = math.max(parent, parent_fence) + 1
local function settle()
  if folded > 0 then redis.call('HDEL', PENDING, unpack(ARGV, 10, 9 + folded)) end
  if keep == '-1' then redis.call('DEL', unpack(KEYS, 3, LAST)) end
end
if generation >= new and has(new) and redis.call('HGET', at(new), 'n') == nonce then
  redis.call('HSET', at(new), 'n', nonce)  -- a write, which replicas can confirm
  if generation == new then settle() end
  return {'published', new}
end
if redis.call('HEXISTS', RULES, 'out') == 1 then return {'opted out', generation} end
if fence ~= parent_fence then return {'forgotten', generation} end
if generation ~= parent then return {'conflict', generation} end
if key and given == '' then return {'encrypted', generation} end
if key and id(key) ~= id(given) and key ~= ARGV[8] then return {'rekeyed', generation} end
local fields = {unpack(ARGV, 10 + folded)}
if #fields == 0 then
  local previous = tonumber(redis.call('HGET', KEYS[1], 'p') or 0)
  if previous == 0 or not has(previous) then return {'nothing', generation} end
  local stored = redis.call('HGETALL', slot(previous))
  for i = 1, #stored, 2 do
    if stored[i] ~= 'g' and stored[i] ~= 'n' then
      fields[#fields + 1], fields[#fields + 2] = stored[i], stored[i + 1]
    end
  end
end
redis.call('PUBLISH', ARGV[5], ARGV[6] .. ' ' .. new .. ' ' .. KEYS[1])
if parent > 0 and keep ~= '-1' then
  local kept, words = redis.call('HMGET', KEYS[1], unpack(ALL)), {}
  for i, value in ipairs(kept) do
    if value then words[#words + 1], words[#words + 2] = ALL[i], value end
  end
  redis.call('HSET', slot(parent), unpack(words))
  if #words < 2 * #ALL then redis.call('HDEL', slot(parent), 'p') end
  redis.call('EXPIRE', slot(parent), keep)
end
local replaces = false
for i = 1, #fields, 2 do replaces = replaces or fields[i] == 'p' end
local function add(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
if fence > 0 then add('f', fence) end
if given ~= '' and not (key and id(key) == id(given)) then add('k', given) end
redis.call('HSET', KEYS[1], 'g', new, 'n', nonce, unpack(fields))
if not replaces then redis.call('HDEL', KEYS[1], 'p') end
if parent == 0 or key and id(key) ~= id(given) then redis.call('DEL', PENDING) end
settle()
return {'published', new}
"""
)

# ARGV: fence or '', channel, how many messages may be pending, vocabulary, data key that is used or
# '', mark, value, then, for a user without a model, field, value, … of a first generation. Reply:
# verdict, generation or vocabulary. The first write is as in PUBLISH.
ADD: Final = (
    _PRELUDE
    + """
local given, mark = ARGV[5], ARGV[6]
if redis.call('HEXISTS', RULES, 'out') == 1 then return {'opted out', generation} end
if ARGV[1] ~= '' and fence ~= tonumber(ARGV[1]) then return {'forgotten', generation} end
local known, first = 0, generation == 0
if first then
  if #ARGV == 7 then return {'no base', generation} end
else
  if key and given == '' then return {'encrypted', generation} end
  if given ~= '' and not (key and id(key) == id(given)) then return {'rekeyed', generation} end
  local vocabulary = redis.call('HGET', KEYS[1], 'v')
  if vocabulary ~= ARGV[4] then return {'vocabulary', vocabulary or ''} end
  if redis.call('HEXISTS', PENDING, mark) == 1 then
    local kept = redis.call('HGET', PENDING, mark)
    redis.call('HSET', PENDING, mark, kept)  -- a write, which replicas can confirm
    return {'known', generation}
  end
  known = redis.call('HLEN', PENDING)
  if known >= tonumber(ARGV[3]) then return {'full', generation} end
end
local new = first and fence + 1 or generation
redis.call('PUBLISH', ARGV[2], 'learn ' .. new .. '.' .. (known + 1) .. ' ' .. KEYS[1])
if not first then
  redis.call('HSET', PENDING, mark, ARGV[7])
  return {'added', new}
end
local fields = {unpack(ARGV, 8)}
local function add(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
if fence > 0 then add('f', fence) end
if given ~= '' then add('k', given) end
redis.call('HSET', KEYS[1], 'g', new, unpack(fields))
redis.call('DEL', PENDING)
redis.call('HSET', PENDING, mark, ARGV[7])
return {'added', new}
"""
)

# Reply: the two data keys ('': none), marks and values of the pending messages.
PENDING: Final = (
    _PRELUDE
    + """
local found = generation > 0 and redis.call('HGETALL', PENDING) or {}
return {key or '', coming or '', found}
"""
)

# The last of KEYS is the only one that is used, a user's rules or everybody's. Reply: '1' if the
# user has opted out, else nil; the other rules and their revision, or nil.
RULES: Final = "return redis.call('HMGET', KEYS[#KEYS], 'out', 'rules', 'revision')"

# KEYS as in RULES. ARGV: channel, '1' if the user has opted out, else ''; the other rules, or '';
# their revision, or ''; then, unless any rules may be replaced, the first and the last as they were
# read. Reply: 1, or 0 if they have changed. A deletion takes the revision and leaves the wish, so
# both are compared. What a lost reply was about is there already, and is written once more.
SET_RULES: Final = """
local rules = KEYS[#KEYS]
if #ARGV > 4 then
  local found = redis.call('HMGET', rules, 'out', 'revision')
  local out, revision = found[1] or '', found[2] or ''
  local as_read = out == ARGV[5] and revision == ARGV[6]
  if not as_read and not (out == ARGV[2] and revision == ARGV[4]) then return 0 end
end
redis.call('PUBLISH', ARGV[1], 'rules 0 ' .. (KEYS[2] and KEYS[1] or rules))
for i, name in ipairs({'out', 'rules', 'revision'}) do
  if ARGV[i + 1] ~= '' then
    redis.call('HSET', rules, name, ARGV[i + 1])
  else
    redis.call('HDEL', rules, name)
  end
end
return 1
"""

# KEYS as in RULES. ARGV: the rules as they were read, and as they are to be stored. Reply: 1, or 0
# if they have changed.
RESEAL: Final = """
if redis.call('HGET', KEYS[#KEYS], 'rules') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[#KEYS], 'rules', ARGV[2])
return 1
"""

# ARGV: data key as it was read or '', the same wrapped anew. Reply: 1, or 0 if it has changed.
REWRAP: Final = (
    _PRELUDE
    + """
if not key or key ~= ARGV[1] and key ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'k', ARGV[2])
return 1
"""
)

# ARGV: data key as it was read or '', the new one, how many generations are kept, generation and
# blob of each, then mark and value of every pending message. Reply: 1, or 0 if something changed
# since it was read. Generations that expired meanwhile do not matter, nor those that were never
# pointed to. The first write is one that a full memory refuses, and lets readers go on with both
# keys should the script be cut short.
PROTECT: Final = (
    _PRELUDE
    + """
if generation == 0 or key == ARGV[2] then return 1 end
if (key or '') ~= ARGV[1] or coming and coming ~= ARGV[2] then return 0 end
local blobs, messages, last = {}, {}, 3 + 2 * tonumber(ARGV[3])
for i = 4, last, 2 do blobs[tonumber(ARGV[i])] = ARGV[i + 1] end
for i = last + 1, #ARGV, 2 do messages[ARGV[i]] = ARGV[i + 1] end
if not blobs[generation] then return 0 end
for i = 3, LAST do
  local found = tonumber(redis.call('HGET', KEYS[i], 'g') or 0)
  if found > 0 and found < generation and not blobs[found] then return 0 end
end
local pending = redis.call('HKEYS', PENDING)
for _, mark in ipairs(pending) do
  if not messages[mark] then return 0 end
end
redis.call('HSET', KEYS[1], 'c', ARGV[2])
for number, blob in pairs(blobs) do
  if has(number) then redis.call('HSET', at(number), 'b', blob) end
end
for _, mark in ipairs(pending) do redis.call('HSET', PENDING, mark, messages[mark]) end
redis.call('HSET', KEYS[1], 'k', ARGV[2])
redis.call('HDEL', KEYS[1], 'c')
return 1
"""
)

# ARGV: seconds the fence stays, channel. Reply: 1 if there was a model. A user without one is
# fenced off too: the first build may be running. The first write changes nothing (a head never
# expires), but is one that a full memory allows, and with it all that follow: deleting must always
# be possible. So it is also where the channel is forbidden, which is an error afterwards. Of the
# rules only the wish to have no model stays.
FORGET: Final = (
    _PRELUDE
    + """
local new = math.max(generation, fence) + 1
local told = redis.pcall('PUBLISH', ARGV[2], 'forget ' .. new .. ' ' .. KEYS[1])
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[2], new, 'EX', ARGV[1])
redis.call('DEL', KEYS[1], PENDING, unpack(KEYS, 3, LAST))
redis.call('HDEL', RULES, 'rules', 'revision')
if type(told) == 'table' and told.err then return redis.error_reply(told.err) end
if generation > 0 then return 1 end
return 0
"""
)

# Reply: the head's fields and values; those of the pending messages and of the rules; then for
# every slot in use the seconds that it has left, and its fields and values. Without a model there
# are rules at most.
SNAPSHOT: Final = (
    _PRELUDE
    + """
local found = {{}, {}, redis.call('HGETALL', RULES)}
if generation == 0 then return found end
found[1], found[2] = redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', PENDING)
for i = 3, LAST do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    found[#found + 1] = {redis.call('TTL', KEYS[i]), redis.call('HGETALL', KEYS[i])}
  end
end
return found
"""
)

# ARGV: what the fence is raised by above the generation, how many words the head has and these, the
# same of pending messages and of rules, then for every slot its seconds, how many words and these.
# Reply: what was found or done. Rules are put where there are none, and if they, old or new, say
# that the user wants no model, nothing else is. The head is written last, in one write, so that a
# script that was cut short can be repeated.
RESTORE: Final = (
    _PRELUDE
    + """
if generation > 0 then return 'present' end
local at = 2
local function words()
  local first = at + 1
  at = first + tonumber(ARGV[at])
  return first, at - 1
end
local function put(target, first, last)
  for i = first, last, 1000 do
    redis.call('HSET', target, unpack(ARGV, i, math.min(last, i + 999)))
  end
end
local function place(first, last, name)
  for i = first, last, 2 do if ARGV[i] == name then return i + 1 end end
end
local pointer, pointed = words()
local waiting, waited = words()
local from, to = words()
local out = place(from, to, 'out')
if redis.call('EXISTS', RULES) == 0 then
  if fence == 0 then put(RULES, from, to)
  elseif out then redis.call('HSET', RULES, 'out', ARGV[out]) end
end
if fence > 0 then return 'deleted' end
if pointed < pointer then return 'ruled' end
if redis.call('HEXISTS', RULES, 'out') == 1 then return 'deleted' end
put(PENDING, waiting, waited)
while at <= #ARGV do
  local seconds = tonumber(ARGV[at])
  at = at + 1
  from, to = words()
  local number = tonumber(ARGV[place(from, to, 'g')])
  put(slot(number), from, to)
  if seconds >= 0 then redis.call('EXPIRE', slot(number), seconds) end
end
local words = {unpack(ARGV, pointer, pointed)}
words[#words + 1], words[#words + 2] = 'f', ARGV[place(pointer, pointed, 'g')] + ARGV[1]
redis.call('HSET', KEYS[1], unpack(words))
return 'restored'
"""
)

# Everybody's rules, as RULES; fields and values.
SNAPSHOT_RULES: Final = "return redis.call('HGETALL', KEYS[#KEYS])"

# ARGV: fields and values, which are put where there are no rules.
RESTORE_RULES: Final = """
if redis.call('EXISTS', KEYS[#KEYS]) == 0 then redis.call('HSET', KEYS[#KEYS], unpack(ARGV)) end
return 1
"""
