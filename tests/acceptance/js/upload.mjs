// A client of tus-js-client as a process: `node upload.mjs JOB`, JOB being a JSON object with
//   endpoint    where uploads are created
//   file        what to send
//   remembered  file in which the URL of an upload survives this process
//   terminate   true to remove the upload when it is given up
//   stream      true to send it as a stream whose length nobody knows
//   options     more options of the client (parallelUploads, protocol and so on)
// SIGTERM makes it give up. Prints a JSON object a line: every response, every retry, how it ended.
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import { PassThrough } from 'node:stream'
import { FileUrlStorage, Upload } from 'tus-js-client'

const job = JSON.parse(process.argv[2])
const tell = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)

const source = createReadStream(job.file)
const upload = new Upload(job.stream ? source.pipe(new PassThrough()) : source, {
  ...job.options,
  endpoint: job.endpoint,
  metadata: { filename: basename(job.file), filetype: 'application/octet-stream' },
  retryDelays: Array(20).fill(50),
  urlStorage: new FileUrlStorage(job.remembered),
  storeFingerprintForResuming: true,
  onAfterResponse: (request, response) => {
    const offset = response.getHeader('Upload-Offset')
    tell('response', {
      method: request.getMethod(),
      status: response.getStatus(),
      path: new URL(request.getURL()).pathname,
      offset: offset === undefined ? null : Number(offset),
    })
  },
  onShouldRetry: (error, attempt, options) => {
    const status = error.originalResponse ? error.originalResponse.getStatus() : 0
    tell('retry', { status })
    // As without this function: https://github.com/tus/tus-js-client/blob/main/docs/api.md
    return status === 0 || status === 409 || status === 423 || status >= 500
  },
  onSuccess: () => tell('success', { url: upload.url }),
  onError: failed,
})

function failed(error) {
  tell('error', { message: String(error) })
  process.exitCode = 1
}

process.on('SIGTERM', () => {
  upload.abort(Boolean(job.terminate)).then(() => tell('aborted', { url: upload.url }), failed)
})
const [previous] = await upload.findPreviousUploads()
if (previous) upload.resumeFromPreviousUpload(previous)
upload.start()
