// The chat's page: what the server says, worded in the reader's language. Whatever people have written becomes text nodes
// only. The connection is /client.js's: it comes back and goes on where it was.

import { Stentor } from './client.js';

const ROOM = 'room';
const NOTICES = 'notices';
const SHOWN_MAX = 500;
const NAME_TAKEN = 1003;

// ---- Words

const WORDS = {
  en: {
    title: 'Chat', messages: 'Messages', yourName: 'Your name', join: 'Join', change: 'Change', cancel: 'Cancel', message: 'Message', send: 'Send',
    newest: 'New messages ↓', empty: 'Nothing has been said yet.', rename: 'Change your name',
    connecting: 'connecting…', waiting: 'offline, back soon…', closed: 'disconnected',
    here: { one: '# person here', other: '# people here' },
    joined: '{} has joined', left: '{} has left', renamed: '{} is now {}', clock: 'It is {}. {}.',
    lost: 'Some messages are missing here.', restarted: 'The server has been restarted.',
    lostText: 'The connection was lost: look whether your message is there.',
    111: 'Not so fast: wait a second.', 1001: 'Say who you are first.', 1002: 'A name has 1 to 24 characters that can be seen.',
    1003: 'Somebody here has this name already.', 1004: 'A message has 1 to 1,000 characters.',
  },
  ru: {
    title: 'Чат', messages: 'Сообщения', yourName: 'Ваше имя', join: 'Войти', change: 'Изменить', cancel: 'Отмена', message: 'Сообщение', send: 'Отправить',
    newest: 'Новые сообщения ↓', empty: 'Пока никто ничего не сказал.', rename: 'Изменить имя',
    connecting: 'соединяемся…', waiting: 'нет связи, скоро вернёмся…', closed: 'связь прервана',
    here: { one: 'здесь # человек', few: 'здесь # человека', many: 'здесь # человек', other: 'здесь # человека' },
    joined: '{} теперь с нами', left: '{} больше не с нами', renamed: '{} теперь зовётся {}', clock: 'Сейчас {}, {}.',
    lost: 'Здесь не хватает сообщений.', restarted: 'Сервер перезапустился.',
    lostText: 'Связь прервалась: проверьте, дошло ли сообщение.',
    111: 'Не так быстро: подождите секунду.', 1001: 'Сначала представьтесь.', 1002: 'В имени от 1 до 24 видимых знаков.',
    1003: 'Это имя уже занято.', 1004: 'В сообщении от 1 до 1000 знаков.',
  },
};
/** As in `en-GB`: the first of the reader's that there are words for. */
const locale = navigator.languages.find(tag => tag.slice(0, 2) in WORDS) ?? 'en';
const language = locale.slice(0, 2);
const words = WORDS[language];
const plural = new Intl.PluralRules(locale);
const people = count => words.here[plural.select(count)].replace('#', count.toLocaleString(locale));
const clock = new Intl.DateTimeFormat(locale, { timeStyle: 'short' });
const day = new Intl.DateTimeFormat(locale, { day: 'numeric', month: 'long' });

const element = id => document.getElementById(id);
document.documentElement.lang = language;
document.title = words.title;
for (const one of document.querySelectorAll('[data-word]')) one.textContent = words[one.dataset.word];
for (const one of document.querySelectorAll('[data-label]')) one.ariaLabel = one.placeholder = words[one.dataset.label];

// ---- The connection

/** What this tab is called, as long as it is open. */
let me = null;
/** How many people are here, as the server said last. */
let here = null;
let state = 'closed';

const stentor = new Stentor('ws', { onState: changed });
stentor.subscribe(ROOM, received, { history: 100, onSubscribed: showEmpty, onLost: lost });
stentor.subscribe(NOTICES, ({ data, time }) => said({ clock: time, ...data }));

function changed(to) {
  state = to.state;
  element('send').disabled = state !== 'open';
  showStatus();
  if (state === 'open' && sessionStorage.name) comeBack(sessionStorage.name);
}

function showStatus() {
  element('status').dataset.state = state;
  element('status').textContent = state !== 'open' ? words[state] : here === null ? '' : people(here);
}

/** A connection that was lost may have the name until the server finds out: then a number tells the two apart. */
async function comeBack(name, number = 1) {
  const isFirst = me === null;
  try {
    await call(number === 1 ? name : `${name.slice(0, 20)} ${number}`);
    if (isFirst) ask(false);
  } catch (error) {
    if (error.code === NAME_TAKEN && number < 5) await comeBack(name, number + 1);
    else if (error.outcome === 'refused') problem(error);
  }
}

async function call(name) {
  await stentor.publish(ROOM, { name });
  me = name;
  element('me').textContent = name;
  element('me').hidden = false;
}

function lost({ from, to }) {
  line('event', from.epoch === to.epoch ? words.lost : words.restarted);
}

// ---- Messages

let last = { name: null, day: null };
/** Whether the end stays in view. Who reads back is not disturbed. */
let follows = true;

function received({ data, time }) {
  const date = day.format(time);
  if (date !== last.day) line('event', last.day = date);
  if (typeof data.text === 'string') message(data, new Date(time));
  else said(data);
}

function said(event) {
  here = event.here;
  showStatus();
  const name = text => made('bdi', '', text);
  const sentence = (pattern, ...parts) => pattern.split('{}').flatMap((text, at) => [text, parts[at] ?? '']);
  if (event.joined) line('event', ...sentence(words.joined, name(event.joined)));
  else if (event.left) line('event', ...sentence(words.left, name(event.left)));
  else if (event.renamed) line('event', ...sentence(words.renamed, name(event.renamed), name(event.to)));
  else if (event.clock) {
    // The newest is enough.
    document.querySelector('.clock')?.remove();
    line('event clock', ...sentence(words.clock, clock.format(event.clock), people(event.here)));
  }
}

function message({ name, text }, time) {
  const bubble = made('p', 'text', text);
  const stamp = made('time', '', clock.format(time));
  stamp.dateTime = time.toISOString();
  bubble.append(stamp);
  const item = made('li', name === me ? 'mine' : 'theirs');
  if (name === last.name) item.classList.add('more');
  else item.append(avatar(name), made('bdi', 'name', name));
  last.name = name;
  item.append(bubble);
  item.style.setProperty('--hue', hue(name));
  add(item);
}

const avatar = name => {
  const circle = made('span', 'avatar', [...name][0].toLocaleUpperCase(language));
  circle.ariaHidden = 'true';
  return circle;
};
const hue = name => [...name].reduce((sum, character) => (sum * 31 + character.codePointAt(0)) % 360, 7);

function line(kind, ...parts) {
  last.name = null;
  const item = made('li', kind);
  item.append(...parts);
  add(item);
}

function made(tag, kind, text = '') {
  const one = document.createElement(tag);
  if (kind) one.className = kind;
  one.textContent = text;
  return one;
}

function showEmpty() {
  element('empty').hidden = element('messages').childElementCount > 0;
}

function add(item) {
  const list = element('messages');
  list.append(item);
  while (list.childElementCount > SHOWN_MAX) list.firstElementChild.remove();
  showEmpty();
  if (follows) toNewest();
  else element('newest').hidden = false;
}

function toNewest() {
  follows = true;
  element('messages').scrollTop = element('messages').scrollHeight;
  element('newest').hidden = true;
}

// ---- What the person does

function problem(error) {
  element('problem').textContent = error ? words[error.code] ?? (error.outcome === 'refused' ? error.message : words.lostText) : '';
  element('problem').hidden = !error;
}

/** Asks for the name, or goes back to writing. */
function ask(again) {
  element('naming').hidden = !again;
  element('saying').hidden = again;
  element('cancel').hidden = me === null;
  element('naming').querySelector('[data-word=join]').textContent = me === null ? words.join : words.change;
  element('name').value = me ?? '';
  problem(null);
}

element('naming').onsubmit = async event => {
  event.preventDefault();
  const name = element('name').value.trim().replace(/\s+/g, ' ');
  try {
    if (name !== me) await call(name);
    sessionStorage.name = name;
    ask(false);
    element('text').focus();
  } catch (error) {
    problem(error);
  }
};

element('saying').onsubmit = async event => {
  event.preventDefault();
  const text = element('text').value.trim();
  if (text === '' || state !== 'open') return;
  element('text').value = '';
  problem(null);
  toNewest();
  try {
    await stentor.publish(ROOM, { text });
  } catch (error) {
    problem(error);
    element('text').value ||= text;
  }
};

element('text').onkeydown = event => {
  // Enter that ends the composition of a character is not meant for us.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element('saying').requestSubmit();
};
element('me').title = words.rename;
element('me').onclick = () => {
  ask(true);
  element('name').select();
};
element('cancel').onclick = () => ask(false);
element('newest').onclick = toNewest;
element('messages').onscroll = ({ target }) => {
  follows = target.scrollHeight - target.scrollTop - target.clientHeight < 60;
  if (follows) element('newest').hidden = true;
};
new ResizeObserver(() => follows && toNewest()).observe(element('messages'));
// Where the keyboard does not make the page smaller, the page does so.
visualViewport?.addEventListener('resize', () => { document.body.style.height = `${visualViewport.height}px`; });
