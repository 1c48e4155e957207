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

CREATE INDEX IF NOT EXISTS alerts.by_state_change ON status (StateChange);

-- A probe says the same again.
CREATE TRIGGER IF NOT EXISTS alerts.deduplication BEFORE INSERT ON status
WHEN new.ServerName = '' AND EXISTS (SELECT 1 FROM status WHERE Identifier = new.Identifier)
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

-- A gateway brings the row of another ObjectServer, whose name it carries: not a repetition. The newer row counts, and merging in either order
-- and any number of times gives the same row.
CREATE TRIGGER IF NOT EXISTS alerts.replication BEFORE INSERT ON status
WHEN new.ServerName <> '' AND EXISTS (SELECT 1 FROM status WHERE Identifier = new.Identifier)
BEGIN
    UPDATE status SET
        Node = new.Node, NodeAlias = new.NodeAlias, Manager = new.Manager, Agent = new.Agent, AlertGroup = new.AlertGroup,
        AlertKey = new.AlertKey, Severity = new.Severity, Summary = new.Summary, StateChange = new.StateChange,
        LastOccurrence = new.LastOccurrence, InternalLast = new.InternalLast, Poll = new.Poll, Type = new.Type, Class = new.Class,
        Grade = new.Grade, Location = new.Location, OwnerUID = new.OwnerUID, OwnerGID = new.OwnerGID,
        Acknowledged = new.Acknowledged, Flash = new.Flash, EventId = new.EventId, ExpireTime = new.ExpireTime,
        ProcessReq = new.ProcessReq, SuppressEscl = new.SuppressEscl, Customer = new.Customer, Service = new.Service,
        PhysicalSlot = new.PhysicalSlot, PhysicalPort = new.PhysicalPort, PhysicalCard = new.PhysicalCard,
        TaskList = new.TaskList, URL = new.URL, ExtendedAttr = new.ExtendedAttr, ServerName = new.ServerName,
        ServerSerial = new.ServerSerial
    WHERE Identifier = new.Identifier
        AND (new.StateChange, new.LastOccurrence, new.InternalLast, new.ServerName, new.Severity, new.Summary)
            > (StateChange, LastOccurrence, InternalLast, ServerName, Severity, Summary);
    UPDATE status SET Tally = MAX(Tally, new.Tally), FirstOccurrence = MIN(FirstOccurrence, new.FirstOccurrence)
    WHERE Identifier = new.Identifier AND (Tally < new.Tally OR FirstOccurrence > new.FirstOccurrence);
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER IF NOT EXISTS alerts.new_row AFTER INSERT ON status
WHEN new.ServerName = ''
BEGIN
    UPDATE status SET ServerName = (SELECT Name FROM server), ServerSerial = Serial WHERE Serial = new.Serial;
END;

CREATE TABLE IF NOT EXISTS alerts.server (Name VARCHAR(64) NOT NULL);
