-- One image of ten steps, each time another, and how often which status came.

local seed = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function request()
  seed = seed + 1
  return wrk.format(nil, nil, nil, string.format('{"n": 1, "steps": 10, "seed": %d}', seed))
end

local threads = {}
function setup(thread) table.insert(threads, thread) end

counts = {}
function response(status) counts[status] = (counts[status] or 0) + 1 end

function done()
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("counts")) do print(string.format("  Status %d: %d", status, count)) end
  end
end
