-- What all of them share: paths, a seed for each thread, and the figures as one line of JSON at the end.
-- Environment: BENCH_PATH is the request target up to a file's number, BENCH_KEYS files, BENCH_BYTES each;
-- BENCH_ONCE=1 takes each file once before any comes again, in a random order; BENCH_ONCE=end ends with the last one.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } bench_time; int clock_gettime(int clock, bench_time *now);")

local common = {}
local path = os.getenv("BENCH_PATH")
local keys = tonumber(os.getenv("BENCH_KEYS"))
local once = os.getenv("BENCH_ONCE")
local headers = { ["Content-Type"] = "application/octet-stream" }
local threads, place = {}, 0
local body, order, gets

-- Bytes that don't compress: some servers store less where they do.
local function noise(count)
  local bytes = {}
  for i = 1, count do bytes[i] = string.char(math.random(0, 255)) end
  return table.concat(bytes)
end

local function shuffled(count)
  local order = {}
  for i = 1, count do order[i] = i - 1 end
  for i = count, 2, -1 do
    local j = math.random(i)
    order[i], order[j] = order[j], order[i]
  end
  return order
end

local function target(key)
  return string.format("%s%06d", path, key)
end

local function now_s()
  local now = ffi.new("bench_time")
  ffi.C.clock_gettime(1, now) -- CLOCK_MONOTONIC
  return tonumber(now.s) + tonumber(now.ns) / 1e9
end

local function next_key()
  if once == "0" then return math.random(0, keys - 1) end
  if place == 0 then started_s = now_s() end
  if place == keys and once == "end" and ended_s == 0 then
    ended_s = now_s()
    wrk.thread:stop()
  end
  place = place % keys + 1
  return order[place]
end

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
  thread:set("bad_batches", 0)
  thread:set("started_s", 0)
  thread:set("ended_s", 0)
end

function init(args)
  math.randomseed(number * 7919 + os.time())
  body = noise(tonumber(os.getenv("BENCH_BYTES")))
  order = shuffled(keys)
  -- Made before the clock starts: formatting costs more than sending.
  gets = {}
  for key = 0, keys - 1 do gets[key] = wrk.format("GET", target(key)) end
end

function common.get()
  return gets[next_key()]
end

function common.put()
  return wrk.format("PUT", target(next_key()), headers, body)
end

function common.name()
  return string.format("bench/%06d", next_key())
end

function common.body()
  return body
end

-- The last line of a batch's answer says how many of its files failed.
function common.check_batch(status, headers, answer)
  if not answer:sub(-200):find('"failed": 0}\n', 1, true) then bad_batches = bad_batches + 1 end
end

function done(summary, latency, requests)
  local e = summary.errors
  local seconds, bad = summary.duration / 1e6, 0
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("bad_batches")
    -- wrk itself waits until the time is over.
    if thread:get("ended_s") > 0 then seconds = thread:get("ended_s") - thread:get("started_s") end
  end
  io.write(string.format(
    '\n{"done": %d, "seconds": %.6f, "rate": %.1f, "errors": %d, "bytes": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, seconds, summary.requests / seconds,
    e.connect + e.read + e.write + e.status + e.timeout + bad, summary.bytes,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end

return common
