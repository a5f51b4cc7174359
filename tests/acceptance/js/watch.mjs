// Watch as a page does: `node watch.mjs stream|socket URL`. Prints a JSON object a line: what came,
// each time the connection broke, and how it ended. Node has a page's EventSource and WebSocket:
// `node --experimental-eventsource --experimental-websocket`, which newer ones need no more.
const [kind, url] = process.argv.slice(2)
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

function stream() {
  const source = new EventSource(url)
  for (const event of ['job', 'plate', 'queue', 'lock', 'cancelled', 'missing']) {
    source.addEventListener(event, ({ data, lastEventId }) =>
      tell({ id: lastEventId, event, data: JSON.parse(data) }))
  }
  source.onopen = () => tell({ event: 'open' })
  source.onerror = () => {
    const closed = source.readyState === EventSource.CLOSED
    tell({ event: closed ? 'closed' : 'broken' })
    if (closed) process.exit(0)
  }
}

function socket() {
  const source = new WebSocket(url)
  source.onopen = () => tell({ event: 'open' })
  source.onmessage = ({ data }) => tell(JSON.parse(data))
  source.onclose = ({ code }) => tell({ event: 'closed', code })
}

if (kind === 'stream') stream()
else socket()
