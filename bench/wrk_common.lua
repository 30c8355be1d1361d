-- What get, put and mixed share: paths, a seed for each thread, and the figures as one line of JSON at the end.
-- Environment: BENCH_PATH is the request target up to a file's number, BENCH_KEYS files, BENCH_BYTES each;
-- BENCH_ONCE=1 takes each file once, in a mixed order, before any comes again.

local common = {}
local path = os.getenv("BENCH_PATH")
local keys = tonumber(os.getenv("BENCH_KEYS"))
local once = os.getenv("BENCH_ONCE") == "1"
local headers = { ["Content-Type"] = "application/octet-stream" }
local threads, place = 0, 0
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

local function next_key()
  if not once then return math.random(0, keys - 1) end
  place = place % keys + 1
  return order[place]
end

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
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

function done(summary, latency, requests)
  local e = summary.errors
  local seconds = summary.duration / 1e6
  io.write(string.format(
    '\n{"done": %d, "seconds": %.3f, "rate": %.1f, "errors": %d, "bytes": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, seconds, summary.requests / seconds,
    e.connect + e.read + e.write + e.status + e.timeout, summary.bytes,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end

return common
