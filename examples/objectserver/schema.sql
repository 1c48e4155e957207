CREATE TABLE IF NOT EXISTS alerts.status (
    Identifier VARCHAR(255) NOT NULL UNIQUE,
    Serial INTEGER PRIMARY KEY AUTOINCREMENT,
    Node VARCHAR(64) NOT NULL DEFAULT '',
    NodeAlias VARCHAR(64) NOT NULL DEFAULT '',
    Manager VARCHAR(64) NOT NULL DEFAULT '',
    Agent VARCHAR(64) NOT NULL DEFAULT '',
    AlertGroup VARCHAR(255) NOT NULL DEFAULT '',
    AlertKey VARCHAR(255) NOT NULL DEFAULT '',
    Severity INTEGER NOT NULL DEFAULT 0,
    Summary VARCHAR(4096) NOT NULL DEFAULT '',
    StateChange INTEGER NOT NULL DEFAULT (unixepoch()),
    FirstOccurrence INTEGER NOT NULL DEFAULT (unixepoch()),
    LastOccurrence INTEGER NOT NULL DEFAULT (unixepoch()),
    InternalLast INTEGER NOT NULL DEFAULT (unixepoch()),
    Poll INTEGER NOT NULL DEFAULT 0,
    Type INTEGER NOT NULL DEFAULT 0,
    Tally INTEGER NOT NULL DEFAULT 1,
    Class INTEGER NOT NULL DEFAULT 0,
    Grade INTEGER NOT NULL DEFAULT 0,
    Location VARCHAR(64) NOT NULL DEFAULT '',
    OwnerUID INTEGER NOT NULL DEFAULT 65534,
    OwnerGID INTEGER NOT NULL DEFAULT 0,
    Acknowledged INTEGER NOT NULL DEFAULT 0,
    Flash INTEGER NOT NULL DEFAULT 0,
    EventId VARCHAR(255) NOT NULL DEFAULT '',
    ExpireTime INTEGER NOT NULL DEFAULT 0,
    ProcessReq INTEGER NOT NULL DEFAULT 0,
    SuppressEscl INTEGER NOT NULL DEFAULT 0,
    Customer VARCHAR(64) NOT NULL DEFAULT '',
    Service VARCHAR(64) NOT NULL DEFAULT '',
    PhysicalSlot INTEGER NOT NULL DEFAULT 0,
    PhysicalPort INTEGER NOT NULL DEFAULT 0,
    PhysicalCard VARCHAR(64) NOT NULL DEFAULT '',
    TaskList INTEGER NOT NULL DEFAULT 0,
    URL VARCHAR(1024) NOT NULL DEFAULT '',
    ExtendedAttr VARCHAR(4096) NOT NULL DEFAULT '',
    ServerName VARCHAR(64) NOT NULL DEFAULT '',
    ServerSerial INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS alerts.details (
    KeyField VARCHAR(255) NOT NULL PRIMARY KEY,
    Identifier VARCHAR(255) NOT NULL DEFAULT '',
    AttrVal INTEGER NOT NULL DEFAULT 0,
    Sequence INTEGER NOT NULL DEFAULT 0,
    Name VARCHAR(255) NOT NULL DEFAULT '',
    Detail VARCHAR(4096) NOT NULL DEFAULT ''
);

CREATE TRIGGER IF NOT EXISTS alerts.deduplication BEFORE INSERT ON status
WHEN EXISTS (SELECT 1 FROM status WHERE Identifier = new.Identifier)
BEGIN
    UPDATE status SET
        Tally = Tally + 1,
        LastOccurrence = new.LastOccurrence,
        StateChange = unixepoch(),
        InternalLast = unixepoch(),
        Summary = new.Summary,
        AlertKey = new.AlertKey,
        Severity = new.Severity
    WHERE Identifier = new.Identifier;
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER IF NOT EXISTS alerts.new_row AFTER INSERT ON status
WHEN new.ServerName = ''
BEGIN
    UPDATE status SET ServerName = (SELECT Name FROM server), ServerSerial = Serial WHERE Serial = new.Serial;
END;

CREATE TABLE IF NOT EXISTS alerts.server (Name VARCHAR(64) NOT NULL);
