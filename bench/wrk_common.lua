-- What both scripts share: paths, a seed for each thread, and the figures as one line of JSON at the end.
-- Environment: BENCH_KEYS files, BENCH_BYTES each.

local common = { keys = tonumber(os.getenv("BENCH_KEYS")), bytes = tonumber(os.getenv("BENCH_BYTES")) }

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  math.randomseed(number * 7919 + os.time())
end

function common.path()
  return string.format("/file?path=bench/%06d", math.random(0, common.keys - 1))
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"done": %d, "seconds": %.3f, "rate": %.1f, "errors": %d, "bytes": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, summary.duration / 1e6, summary.requests / (summary.duration / 1e6),
    e.connect + e.read + e.write + e.status + e.timeout, summary.bytes,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end

return common
