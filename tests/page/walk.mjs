// Walks through the web page in a real browser, step by step: `tests/it/page.rs` names each step on a line of standard
// input, and is answered with `done NAME` on a line, or with the error and exit code 1.
//
// node walk.mjs URL SCREENSHOTS PLAYWRIGHT

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [url, screenshots, playwright] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const PATIENCE_MS = 60_000;

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  // Tests run as root in places where Chromium's own sandbox cannot; and nobody is to be asked on the network.
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light' });
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE_MS);

/** What went wrong on the page that no step has asked for. */
const wrong = [];
/** While the host is away, requests fail. */
let mayFail = false;
page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
page.on('console', (message) => {
  if (message.type() === 'error' && !(mayFail && message.text().includes('Failed to load resource'))) wrong.push(message.text());
});
await page.route('**/*', (route) => {
  const asked = new URL(route.request().url());
  if (asked.protocol !== 'data:' && asked.origin !== new URL(url).origin) wrong.push(`asks ${asked.origin}`);
  return route.continue();
});

const text = (selector) => page.locator(selector).innerText();
const inState = (state) => page.locator(`#job-state[data-state="${state}"]`).waitFor();
const done = (operation) => page.locator(`#outcome[data-operation="${operation}"][data-state="done"]`).waitFor();

/** Whether something is drawn on a canvas: points of more than one colour. */
async function isDrawn(selector) {
  return page.locator(selector).evaluate((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set(new Uint32Array(data.buffer));
    return colours.size > 2;
  });
}

async function submit(dialog) {
  await page.locator(`#${dialog} [type=submit]`).click();
}

const steps = {
  async look() {
    await page.goto(url);
    await inState('running');
    await page.locator('#checkpoints [data-outcome="completed"]').first().waitFor();
    assert.equal(await text('#job-name'), 'c105');
    assert.deepEqual(await page.locator('#graph .vertex').evaluateAll((all) => all.length > 0), true, 'the graph has vertices');
    assert.match(await text('[data-fact="read"]'), /[0-9]/);
    await page.waitForFunction(() => document.querySelector('[data-fact="read"]').innerText.includes('/s'));
    for (const chart of ['#checkpoints-chart canvas', '#throughput-chart canvas']) {
      await page.locator(chart).waitFor();
      await page.waitForTimeout(2500);
      assert.ok(await isDrawn(chart), `${chart} is empty`);
    }
    assert.ok(await page.locator('#named-states tbody tr').count() > 0, 'states are listed by name');
    await page.screenshot({ path: `${screenshots}/page-light.png`, fullPage: true });
  },

  async fold() {
    await page.locator('#checkpoints .fold').first().click();
    await page.locator('#checkpoints tr.details table').waitFor();
    await page.locator('#log summary').click();
    await page.locator('#log-rows tr').first().waitFor();
    const lines = await text('#log-rows');
    assert.ok(lines.includes('started, id c105'), lines);
    await page.locator('#config summary').click();
    await page.locator('#config-filter').fill('parallelism');
    assert.match(await text('#config-rows'), /parallelism/);
    await page.locator('#graph .vertex').first().click();
    await page.locator('#subtasks-table').waitFor();
    await page.locator('#close-subtasks').click();
  },

  async phone() {
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.setViewportSize({ width: 390, height: 800 });
    await page.waitForTimeout(500);
    const [wide, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert.ok(wide <= shown, `the page is ${wide} wide on a phone of ${shown}`);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = background.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
    assert.ok(light < 100, `dark is ${background}`);
    await page.screenshot({ path: `${screenshots}/page-phone.png`, fullPage: true });
    await page.emulateMedia({ colorScheme: 'light' });
    await page.setViewportSize({ width: 1280, height: 900 });
  },

  async checkpoint() {
    await page.locator('#do-checkpoint').click();
    await done('checkpoint');
  },

  async savepoint() {
    await page.locator('#do-savepoint').click();
    await submit('dialog-savepoint');
    await done('savepoint');
    await page.locator('#checkpoints [data-kind="savepoint"][data-outcome="completed"]').first().waitFor();
  },

  async rescale() {
    await page.locator('#do-rescale').click();
    await page.locator('#rescale-parallelism').fill('1000000');
    await submit('dialog-rescale');
    assert.match(await text('#dialog-rescale [data-wrong]'), /key groups/);
    await page.locator('#rescale-parallelism').fill('2');
    await submit('dialog-rescale');
    await done('rescale');
    await inState('running');
    await page.waitForFunction(() => document.querySelector('[data-fact="parallelism"] b').innerText === '2');
  },

  async gone() {
    mayFail = true;
    await page.locator('[data-notice="no-answer"]').waitFor();
    assert.equal(await page.locator('#do-checkpoint').isDisabled(), true, 'nothing can be asked of a host that is away');
  },

  async back() {
    await page.locator('[data-notice="no-answer"]').waitFor({ state: 'detached' });
    mayFail = false;
    await inState('running');
    await page.locator('#restored').waitFor();
  },

  async failure() {
    await page.waitForFunction(() => document.querySelector('[data-fact="restarts"] b').innerText !== '0');
    await inState('running');
    await page.locator('#failure-list pre').first().waitFor();
    assert.match(await text('#failure-list'), /restarted from checkpoint/);
  },

  async stop() {
    // The host may end before the page has asked once more.
    mayFail = true;
    await page.locator('#do-stop').click();
    await submit('dialog-stop');
    await done('stop');
  },
};

try {
  console.log('ready');
  for await (const name of createInterface({ input: process.stdin })) {
    await steps[name]();
    assert.deepEqual(wrong, [], 'the page has errors');
    console.log(`done ${name}`);
  }
} catch (error) {
  await page.screenshot({ path: `${screenshots}/page-failed.png`, fullPage: true }).catch(() => {});
  console.error(error);
  console.error(wrong.join('\n'));
  process.exitCode = 1;
} finally {
  await browser.close();
}
