"""Every key, field and Lua script: the one description that async app and sync worker share.

The upload hash holds the fields of `storage.upload.Upload`; the job hash those of
`storage.job.Job`. A lock is a string `{process}:{token}` with a time to live; `waiting` names the
processes that want it. `tusd:finals:{part}` is the set of the final uploads that wait, for this
part or another one of theirs; scripts make its name themselves. Every script that changes a job
publishes on the job's key.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha1
from itertools import chain
from typing import TYPE_CHECKING

from storage.job import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.job import Ended
    from storage.upload import Upload

    #: KEYS and ARGV of a script.
    Built = tuple[list[str], list[str | float]]

EXPIRING = "tusd:expiring"
OUTBOX = "tusd:outbox"
JOBS = "tusd:jobs"
# The `run_id` of the Redis whose records were last compared with the journals.
CHECKED = "tusd:checked"
# How long a lock lives that nobody renews.
LEASE_MS = 5000
# `{id} {path}` of the directory whose Redis this is.
MARKER = "tusd:directory"
# The states of a job that has all its bytes and has not ended.
ACTIVE = ("pending", "processing")


def upload_key(upload_id: str) -> str:
    return f"tusd:upload:{upload_id}"


def job_key(upload_id: str) -> str:
    return f"tusd:job:{upload_id}"


def pair(upload_id: str) -> tuple[str, str]:
    """Name the two hashes of an upload, in the order in which scripts take them."""
    return f"tusd:upload:{upload_id}", f"tusd:job:{upload_id}"


def plates_key(upload_id: str) -> str:
    """Name the list of the plates' texts that an analysis has found so far."""
    return f"tusd:plates:{upload_id}"


def lock_key(upload_id: str) -> str:
    return f"tusd:lock:{upload_id}"


def waiting_key(upload_id: str) -> str:
    return f"tusd:waiting:{upload_id}"


def finals_key(part_id: str) -> str:
    return f"tusd:finals:{part_id}"


def process_channel(process: str) -> str:
    """Name the channel on which one process hears `stop {id}` and `released {id}`."""
    return f"tusd:process:{process}"


@dataclass(frozen=True, slots=True)
class Script:
    """Hold a Lua script and the digest Redis knows it by."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


# A Redis without a marker has lost what it had, or never had it: all records are to be compared.
# KEYS marker checked   ARGV the marker
MARK = Script("""
if redis.call('SET', KEYS[1], ARGV[1], 'NX') then redis.call('DEL', KEYS[2]) end
""")

# What waits for a part is looked at when the part is complete, and when it is gone.
_WAKE = """
local function wake(part, outbox, now)
  for _, final in ipairs(redis.call('SMEMBERS', 'tusd:finals:' .. part)) do
    redis.call('ZADD', outbox, now, final)
  end
end
"""

# KEYS upload job expiring jobs outbox lock
# ARGV id created_at due state how_many_of_job how_many_parts lock ttl_ms (an empty lock is none),
# the fields of the job, the ids of the parts that it waits for, the fields of
# the record
STORE = Script(
    _WAKE
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then
  -- Somebody has rebuilt it from the journal that its creator wrote a moment ago.
  if ARGV[7] ~= '' then redis.call('SET', KEYS[6], ARGV[7], 'PX', ARGV[8], 'NX') end
  return 0
end
local job = 8 + tonumber(ARGV[5])
local parts = job + tonumber(ARGV[6])
redis.call('HSET', KEYS[1], unpack(ARGV, parts + 1))
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if ARGV[7] ~= '' then redis.call('SET', KEYS[6], ARGV[7], 'PX', ARGV[8]) end
-- The journal knows better than a job that was cancelled, if its id is in use again.
if redis.call('HGET', KEYS[2], 'state') == 'cancelled' then redis.call('DEL', KEYS[2]) end
if job > 8 and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], unpack(ARGV, 9, job))
  redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
end
for at = job + 1, parts do
  redis.call('SADD', 'tusd:finals:' .. ARGV[at], ARGV[1])
end
if ARGV[4] == 'pending' or parts > job then redis.call('ZADD', KEYS[5], ARGV[2], ARGV[1]) end
if ARGV[4] == 'partial' and redis.call('HGET', KEYS[1], 'complete') == '1' then
  wake(ARGV[1], KEYS[5], ARGV[2])
end
return 1
"""
)


def store(upload: Upload, ended: Ended | None, now: float, lock: str = "") -> Built:
    """Build KEYS and ARGV of STORE for a record that is new or rebuilt, perhaps locked at once."""
    state = JobState.PENDING if upload.complete else JobState.UPLOADING
    due = upload.expires_at
    job: dict[str, str | float] = {"size": upload.length or 0, "updated_at": now}
    if ended is not None:
        state, due = ended.state, ended.due
        upload = replace(upload, expires_at=ended.until)
        job |= {"done": ended.frames, "total": ended.frames}
        job |= {"plates": ended.plates, "detections": ended.detections}
        job |= {"error": ended.error} if ended.error else {}
        job |= {"finished_at": ended.at} if ended.at else {}
    elif state is JobState.UPLOADING:
        job |= {"done": upload.offset, "total": upload.length or 0}
    # A partial upload is nobody's job.
    parts = [] if upload.partial else _parts({"state": state.value} | job)
    keys = [*pair(upload.id), EXPIRING, JOBS, OUTBOX, lock_key(upload.id)]
    shown = "partial" if upload.partial else state.value
    awaited = list(dict.fromkeys(upload.parts)) if upload.waiting else []
    where = (upload.id, upload.created_at, due, shown)
    counts = (len(parts), len(awaited), lock, LEASE_MS)
    return keys, [*where, *counts, *parts, *awaited, *_parts(upload.to_hash())]


def _parts(fields: Mapping[str, str] | Mapping[str, str | float]) -> list[str | float]:
    return [*chain.from_iterable(fields.items())]


# KEYS lock upload waiting   ARGV id process ttl_ms take
# -> ['missing'] | ['held', value, pttl] | ['free', field, value ...]
# The token is raised with each lock, so an older holder's commit is refused.
ACQUIRE = Script("""
local held = redis.call('GET', KEYS[1])
if held then
  redis.call('SADD', KEYS[3], ARGV[2])
  redis.call('EXPIRE', KEYS[3], 60)
  redis.call('PUBLISH', 'tusd:process:' .. string.match(held, '^(.*):'), 'stop ' .. ARGV[1])
  return {'held', held, redis.call('PTTL', KEYS[1])}
end
-- Of a lock that ran out nobody was told; who waited for it is not to be in the next one's way.
redis.call('SREM', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then return {'missing'} end
if ARGV[4] == '1' then
  local token = redis.call('HINCRBY', KEYS[2], 'token', 1)
  redis.call('SET', KEYS[1], ARGV[2] .. ':' .. token, 'PX', ARGV[3])
end
local answer = redis.call('HGETALL', KEYS[2])
table.insert(answer, 1, 'free')
return answer
""")

# One that ran out while Redis stood still is taken again, if nobody else had it meanwhile, as the
# token tells. One of a complete upload was given back.
# KEYS lock waiting upload, again and again   ARGV ttl_ms, the value of each lock
# -> for each 1 | 0 (it shall be let go of: lost, or wanted, should the message have been lost)
RENEW = Script("""
local answers = {}
for at = 1, #KEYS, 3 do
  local kept, value = 0, ARGV[(at + 5) / 3]
  local held = redis.call('GET', KEYS[at])
  if not held then
    local record = redis.call('HMGET', KEYS[at + 2], 'token', 'complete')
    if record[1] == string.match(value, '%d+$') and record[2] ~= '1' then held = value end
  end
  if held == value then
    redis.call('SET', KEYS[at], value, 'PX', ARGV[1])
    kept = 1 - redis.call('EXISTS', KEYS[at + 1])
  end
  answers[#answers + 1] = kept
end
return answers
""")

_RELEASE = """
local function release(lock, waiting, value, id)
  if redis.call('GET', lock) ~= value then return 0 end
  redis.call('DEL', lock)
  for _, process in ipairs(redis.call('SMEMBERS', waiting)) do
    redis.call('PUBLISH', 'tusd:process:' .. process, 'released ' .. id)
  end
  redis.call('DEL', waiting)
  return 1
end
"""

# KEYS lock waiting   ARGV value id
RELEASE = Script(_RELEASE + "return release(KEYS[1], KEYS[2], ARGV[1], ARGV[2])")

_COMMIT = """
local function put(list, ...)
  for _, one in ipairs({...}) do list[#list + 1] = one end
end
local record = redis.call('HMGET', KEYS[1], 'complete', 'concat')
local job = redis.call('HMGET', KEYS[2], 'state', 'done')
local completes = ARGV[4] == '1' and record[1] ~= '1'
local said, shown = {'offset', ARGV[3], 'expires_at', ARGV[5]}, {}
if ARGV[8] ~= '' then put(said, 'length', ARGV[8]) end
if ARGV[9] ~= '' then put(said, 'segments', ARGV[9]) end
if completes then put(said, 'complete', '1') end
redis.call('HSET', KEYS[1], unpack(said))
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
if completes and record[2] == 'partial' then
  wake(ARGV[1], KEYS[4], ARGV[6])
elseif completes then
  redis.call('ZADD', KEYS[4], ARGV[6], ARGV[1])
end
if job[1] == 'uploading' then
  if ARGV[8] ~= '' then put(shown, 'size', ARGV[8], 'total', ARGV[8]) end
  local done = math.max(tonumber(ARGV[3]), tonumber(job[2] or '0'))
  put(shown, 'done', string.format('%d', done), 'speed', ARGV[7], 'updated_at', ARGV[6])
end
if completes and record[2] ~= 'partial' then
  put(shown, 'state', 'pending', 'done', '0', 'total', '0', 'speed', '0', 'uploaded_at', ARGV[6])
end
if #shown > 0 then redis.call('HSET', KEYS[2], unpack(shown)) end
redis.call('PUBLISH', KEYS[2], '')
return 1
"""

# KEYS upload job expiring outbox   ARGV id token offset complete expires_at now speed length
# segments (the last two empty: not known yet, one file). With a lock to give back when it is
# complete: KEYS ... lock waiting   ARGV ... value
# -> 1 | 0 (an older token, or complete with bytes missing) | -1 (no record)
COMMIT = Script(
    _WAKE
    + _RELEASE
    + """
local known = redis.call('HMGET', KEYS[1], 'token', 'length')
if not known[1] then return -1 end
if known[1] ~= ARGV[2] then return 0 end
local length = ARGV[8] ~= '' and ARGV[8] or known[2]
if ARGV[4] == '1' and ARGV[3] ~= length then return 0 end
if ARGV[4] == '1' and KEYS[5] then release(KEYS[5], KEYS[6], ARGV[10], ARGV[1]) end
"""
    + _COMMIT
)

# What is shown is never less than before, and of no upload that was taken over.
# KEYS upload job   ARGV token received now speed
SHOW = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return end
local job = redis.call('HMGET', KEYS[2], 'state', 'done')
if job[1] ~= 'uploading' or tonumber(ARGV[2]) <= tonumber(job[2] or '0') then return end
redis.call('HSET', KEYS[2], 'done', ARGV[2], 'speed', ARGV[4], 'updated_at', ARGV[3])
redis.call('PUBLISH', KEYS[2], '')
""")


# The client told, in between, how much there will be.
# KEYS job   ARGV size now
EXPECT = Script("""
if redis.call('HGET', KEYS[1], 'state') ~= 'uploading' then return end
redis.call('HSET', KEYS[1], 'size', ARGV[1], 'total', ARGV[1], 'updated_at', ARGV[2])
redis.call('PUBLISH', KEYS[1], '')
""")

# What surely will come of it.
# KEYS job   ARGV error now
WARN = Script("""
if redis.call('HGET', KEYS[1], 'state') ~= 'uploading' then return end
redis.call('HSET', KEYS[1], 'error', ARGV[1], 'updated_at', ARGV[2])
redis.call('PUBLISH', KEYS[1], '')
""")

# KEYS upload   ARGV token metadata
DESCRIBE = Script("""
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'metadata', ARGV[2])
end
""")


def show(upload: Upload, received: int, now: float, speed: float) -> Built:
    """Build KEYS and ARGV of SHOW."""
    return [*pair(upload.id)], [upload.token, received, now, int(speed)]


# KEYS job
HAND_OVER = Script("""
if redis.call('HGET', KEYS[1], 'state') ~= 'uploading' then return end
redis.call('HINCRBY', KEYS[1], 'takeovers', 1)
redis.call('PUBLISH', KEYS[1], '')
""")


# Say in a record what its journal says. The token rises above both: whoever got one before that
# may still write, and nothing of it may count.
# KEYS as COMMIT, lock   ARGV as COMMIT (of the journal), the caller's lock or nothing, metadata
# -> 1 | 0 (it knows as much, or somebody writes) | -1 (no record)
RAISE = Script(
    _WAKE
    + """
local record = redis.call('HMGET', KEYS[1], 'token', 'offset', 'complete')
if not record[1] then return -1 end
local held = redis.call('GET', KEYS[5])
if held and held ~= ARGV[10] then return 0 end
local token, journal = tonumber(record[1]), tonumber(ARGV[2])
local more = tonumber(record[2]) - tonumber(ARGV[3])
local knows = more > 0 or (more == 0 and (record[3] == '1' or ARGV[4] == '0'))
if token > journal and knows then return 0 end
redis.call('HSET', KEYS[1], 'token', string.format('%d', math.max(token, journal) + 1))
if ARGV[11] ~= '' then redis.call('HSET', KEYS[1], 'metadata', ARGV[11]) end
-- Its writer has committed since the journal was read.
if token == journal and knows then return 1 end
if ARGV[9] == '' then redis.call('HDEL', KEYS[1], 'segments') end
if ARGV[4] == '0' and record[3] == '1' then
  redis.call('HSET', KEYS[1], 'complete', '0')
  redis.call('ZREM', KEYS[4], ARGV[1])
  if redis.call('HGET', KEYS[2], 'state') == 'pending' then
    redis.call('HSET', KEYS[2], 'state', 'uploading')
  end
end
"""
    + _COMMIT
)

# Say of a final upload what became of it. No lock and no token matter: nobody writes one.
# KEYS and ARGV as COMMIT   -> 1 | 0 (it was complete before) | -1 (no record)
ASSEMBLED = Script(
    _WAKE
    + """
local complete = redis.call('HGET', KEYS[1], 'complete')
if not complete then return -1 end
if complete == '1' then return 0 end
"""
    + _COMMIT
)

# What was put in again meanwhile has another score, and stays.
# KEYS outbox   ARGV id and score, again and again
DRAINED = Script("""
for at = 1, #ARGV, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at])) == tonumber(ARGV[at + 1]) then
    redis.call('ZREM', KEYS[1], ARGV[at])
  end
end
""")

# KEYS upload job expiring outbox jobs   ARGV id, token or nothing for any, now forget_at
# -> as COMMIT; the journal's tombstone stays until the sweeper finds the id due
TERMINATE = Script(
    _WAKE
    + """
local token = redis.call('HGET', KEYS[1], 'token')
if not token then return -1 end
if ARGV[2] ~= '' and token ~= ARGV[2] then return 0 end
local state = redis.call('HGET', KEYS[2], 'state')
redis.call('DEL', KEYS[1], KEYS[2], 'tusd:plates:' .. ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'cancelled', 'updated_at', ARGV[3])
redis.call('EXPIREAT', KEYS[2], ARGV[4])
-- Only the drain knows what RQ has of it.
if state and state ~= 'uploading' then redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
else redis.call('ZREM', KEYS[4], ARGV[1]) end
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
wake(ARGV[1], KEYS[4], ARGV[3])
redis.call('DEL', 'tusd:finals:' .. ARGV[1])
redis.call('PUBLISH', KEYS[2], '')
return 1
"""
)

# As ACQUIRE, but nobody is asked to let go: the sweeper waits for an upload that is left alone.
# KEYS lock upload   ARGV process ttl_ms   -> the token | 0 (held) | -1 (no record)
ACQUIRE_IDLE = Script("""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
local token = redis.call('HINCRBY', KEYS[2], 'token', 1)
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. token, 'PX', ARGV[2])
return token
""")

# KEYS upload job   ARGV now   -> the number of this attempt | 0 (ended already) | -1 (removed)
# A retry goes on from the state `processing`: what clients see never falls.
JOB_START = Script("""
local state = redis.call('HGET', KEYS[2], 'state')
if redis.call('EXISTS', KEYS[1]) == 0 or state == 'cancelled' then return -1 end
if state ~= 'pending' and state ~= 'processing' then return 0 end
if state == 'pending' then redis.call('HSET', KEYS[2], 'done', '0', 'total', '0') end
redis.call('HSET', KEYS[2], 'state', 'processing', 'updated_at', ARGV[1])
redis.call('HSETNX', KEYS[2], 'started_at', ARGV[1])
redis.call('HDEL', KEYS[2], 'obstacle')
local attempt = redis.call('HINCRBY', KEYS[2], 'attempt', 1)
redis.call('PUBLISH', KEYS[2], '')
return attempt
""")

# KEYS job plates   ARGV attempt now done total plates detections most_texts, texts of new plates
# -> 1 | 0 (a newer attempt runs, or the job has ended) | -1 (removed). What clients see never
# falls. A job that is not `processing` was rebuilt meanwhile: this attempt goes on unseen.
JOB_PROGRESS = Script("""
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'done', 'total', 'plates',
                       'detections')
if job[1] == 'cancelled' then return -1 end
if job[1] == 'completed' or job[1] == 'failed' then return 0 end
if tonumber(job[2] or '0') > tonumber(ARGV[1]) then return 0 end
if job[1] ~= 'processing' or job[2] ~= ARGV[1] then return 1 end
local function most(index)
  return string.format('%d', math.max(tonumber(job[index] or '0'), tonumber(ARGV[index])))
end
redis.call('HSET', KEYS[1], 'done', most(3), 'total', most(4), 'plates', most(5),
           'detections', most(6), 'updated_at', ARGV[2])
for at = 8, #ARGV do
  local room = redis.call('LLEN', KEYS[2]) < tonumber(ARGV[7])
  if room and not redis.call('LPOS', KEYS[2], ARGV[at]) then
    redis.call('RPUSH', KEYS[2], ARGV[at])
  end
end
redis.call('PUBLISH', KEYS[1], '')
return 1
""")

# The outbox lets it wait until then.
# KEYS job outbox   ARGV id attempt now not_before obstacle
# -> 1 | 0 (a newer attempt runs, or the job has ended)
JOB_POSTPONE = Script("""
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if job[1] ~= 'processing' or job[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'obstacle', ARGV[5], 'updated_at', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('PUBLISH', KEYS[1], '')
return 1
""")

# Count an end that is not the job's own; another run follows after the pause that stands for this
# count, if there is one.
# KEYS upload job outbox   ARGV id field now obstacle, pauses in seconds
# -> how often it happened by now | 0 (not to be run any more)
JOB_INTERRUPTED = Script("""
local state = redis.call('HGET', KEYS[2], 'state')
if redis.call('EXISTS', KEYS[1]) == 0 or (state ~= 'pending' and state ~= 'processing') then
  return 0
end
local count = redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
local pause = ARGV[4 + count]
if pause then
  redis.call('ZADD', KEYS[3], tonumber(ARGV[3]) + tonumber(pause), ARGV[1])
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'obstacle', ARGV[4]) end
  redis.call('HSET', KEYS[2], 'updated_at', ARGV[3])
  redis.call('PUBLISH', KEYS[2], '')
end
return count
""")

# KEYS upload job expiring outbox
# ARGV id attempt now due record_until state error done total plates detections
# -> 1 | 0 (ended already, or a newer attempt runs) | -1 (removed). `due` is when the sweeper takes
# the video. Attempt 0 ends any attempt. A published result means completed, whatever was before.
JOB_END = Script("""
local job = redis.call('HMGET', KEYS[2], 'state', 'attempt')
if redis.call('EXISTS', KEYS[1]) == 0 or job[1] == 'cancelled' then return -1 end
if job[1] == 'completed' then return 0 end
if ARGV[6] == 'completed' then
  redis.call('HSET', KEYS[2], 'done', ARGV[8], 'total', ARGV[9], 'plates', ARGV[10],
             'detections', ARGV[11])
  redis.call('HDEL', KEYS[2], 'error')
else
  local attempt = tonumber(ARGV[2])
  if job[1] == 'failed' or (attempt > 0 and attempt < tonumber(job[2] or '0')) then return 0 end
  redis.call('HSET', KEYS[2], 'error', ARGV[7])
end
redis.call('HSET', KEYS[2], 'state', ARGV[6], 'updated_at', ARGV[3], 'finished_at', ARGV[3])
redis.call('HDEL', KEYS[2], 'obstacle')
redis.call('HSET', KEYS[1], 'expires_at', ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('PUBLISH', KEYS[2], '')
return 1
""")

# A failed job begins anew: nothing of its former runs counts, but how many they were.
# KEYS upload job outbox   ARGV id now   -> 1 | 0 (it has not failed) | -1 (removed)
JOB_RETRY = Script("""
local state = redis.call('HGET', KEYS[2], 'state')
if redis.call('EXISTS', KEYS[1]) == 0 or state == 'cancelled' then return -1 end
if state ~= 'failed' then return 0 end
redis.call('DEL', 'tusd:plates:' .. ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'pending', 'updated_at', ARGV[2], 'done', '0', 'total', '0',
           'plates', '0', 'detections', '0')
redis.call('HDEL', KEYS[2], 'error', 'obstacle', 'started_at', 'finished_at',
           'deaths', 'losses')
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('PUBLISH', KEYS[2], '')
return 1
""")

# KEYS upload job expiring outbox jobs   ARGV id now
FORGET = Script(
    _WAKE
    + """
redis.call('DEL', KEYS[1], KEYS[2], 'tusd:plates:' .. ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
wake(ARGV[1], KEYS[4], ARGV[2])
redis.call('DEL', 'tusd:finals:' .. ARGV[1])
redis.call('PUBLISH', KEYS[2], '')
return 1
"""
)


def commit(upload: Upload, now: float, speed: float, lock: str = "") -> Built:
    """Build KEYS and ARGV of COMMIT; a complete upload gives the lock of that value back."""
    length = "" if upload.length is None else upload.length
    state = (upload.token, upload.offset, int(upload.complete), upload.expires_at)
    args = [upload.id, *state, now, int(speed), length, upload.files or ""]
    keys = [*pair(upload.id), EXPIRING, OUTBOX]
    if not (lock and upload.complete):
        return keys, args
    keys += [lock_key(upload.id), waiting_key(upload.id)]
    return keys, [*args, lock]


def terminate(upload_id: str, token: int | None, now: float, forget_at: float) -> Built:
    """Build KEYS and ARGV of TERMINATE; without a token it does not matter who holds the upload."""
    fence = "" if token is None else token
    keys = [*pair(upload_id), EXPIRING, OUTBOX, JOBS]
    return keys, [upload_id, fence, now, int(forget_at)]


def raise_to(journal: Upload, now: float, lock: str | None = None) -> Built:
    """Build KEYS and ARGV of RAISE; `lock` is the value of the lock that the caller holds."""
    keys, args = commit(journal, now, 0.0)
    return [*keys, lock_key(journal.id)], [*args, lock or "", journal.metadata or ""]
