// swagger.mjs CHROMIUM URL TOKEN RECEIVER TEXT: what a person does at /docs. Authorizes, tries send_message out, and prints what
// the page then shows, as JSON.
import { chromium } from 'playwright-core'

const [executablePath, url, token, receiver, text] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-proxy-server',
  ],
})
try {
  const page = await browser.newPage()
  page.setDefaultTimeout(60_000)
  const errors = []
  const elsewhere = []
  page.on('pageerror', (error) => errors.push(String(error)))
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text())
  })
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) elsewhere.push(request.url())
  })

  const opened = await page.goto(`${url}/docs`)
  const policy = opened.headers()['content-security-policy'] ?? ''
  await page.locator('.info .title').waitFor()
  const asyncapi = await page.locator('.info a[href$="asyncapi.json"]').evaluateAll((links) => links.map((link) => link.href))

  await page.locator('.scheme-container .authorize').click()
  await page.getByLabel('auth-bearer-value').fill(token)
  const form = page.locator('.auth-container').filter({ has: page.getByLabel('auth-bearer-value') })
  await form.getByRole('button', { name: 'Apply credentials' }).click()
  await page.locator('.auth-container .btn-done').first().click()

  const operation = page.locator('#operations-messages-send_message')
  await operation.locator('.opblock-summary-control').click()
  const tryOut = operation.getByRole('button', { name: 'Try it out' })
  if (await tryOut.isVisible()) await tryOut.click()
  await operation.locator('textarea.body-param__text').fill(JSON.stringify({ receiver_id: receiver, text }))
  const answer = page.waitForResponse((response) => response.url() === `${url}/v1/messages`)
  await operation.locator('.btn.execute').click()
  const status = await operation.locator('.live-responses-table .response .response-col_status').innerText()
  const shown = await operation.locator('.live-responses-table .response .response-col_description').innerText()
  const body = await (await answer).json()
  console.log(JSON.stringify({ policy, asyncapi, status, shown, body, errors, elsewhere }))
} finally {
  await browser.close()
}
