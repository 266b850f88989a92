/**
 * Headless Chromium for the tests. CHROMIUM names it, /usr/bin/chromium otherwise.
 */

import { chromium } from 'playwright-core';
import { PATIENCE_MS } from './server.mjs';

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

/** An empty tab of a visitor of its own. It keeps the addresses that it asks for, and the errors that it reports. */
export async function tabOf(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 900, height: 640 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.requests = [];
  page.errors = [];
  page.on('request', request => page.requests.push(request.url()));
  page.on('websocket', socket => page.requests.push(socket.url()));
  page.on('pageerror', error => page.errors.push(String(error)));
  page.on('console', message => message.type() === 'error' && page.errors.push(message.text()));
  return page;
}
